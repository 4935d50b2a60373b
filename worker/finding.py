"""One thing that `soundmill doctor` looked at: `Finding`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        verdict: `ok`, `missing` (something optional), `warning` (it works, and may not for long or not as
            well as it could) or `broken` (something needed).
        detail: What was found, or what is wrong and how to mend it.
    """

    what: str
    verdict: str
    detail: str
