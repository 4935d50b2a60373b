"""What a submitter asks for, and what became of each item of a stream."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundmill.storage.errors import SubmitRefused
from soundmill.storage.priorities import DEFAULT, HIGHEST, LOWEST

if TYPE_CHECKING:
    from soundmill.storage.settings import Settings

    from .job import Job

Audio = str | Path | bytes | Mapping[str, Any]
"""Input audio: a path, the bytes of a file, or one of `{"path": …}`, `{"bytes": …}`, `{"url": …}`,
`{"artifact": sha256}`, `{"job": id}`, `{"job": "@alias"}`. A `Job` handle serves too. An address is fetched
at submit, from the hosts that the setting `url_hosts` names."""

# The columns that hold them.
_LONGEST = {"alias": 63, "batch": 190, "custom_id": 1000, "idempotency_key": 255}
_NAMES = ("model", "kind", "alias", "batch", "custom_id", "idempotency_key")
_REQUIRED = frozenset({"model", "batch"})
_SHORT = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One job to be done.

    Attributes:
        model: The id of a model in the catalogue.
        args: Its arguments; those that are audio may be given in any form of `Audio`.
        kind: `tts`, `caption` or `align`; if given, the model must do that.
        alias: A name by which other requests of the same call refer to this one, as
            `{"job": "@alias"}`. It is not kept.
        batch: The name of a group of jobs; empty for none.
        custom_id: The submitter's own name for the job.
        idempotency_key: The same key with the same arguments is the same job, for ever.
        priority: 0 to 9, 9 first.
        delay_s: Not before this long after the submit, in seconds.
        at: Not before this time, with a time zone; instead of `delay_s`.
        timeout_s: Final, one way or another, this long after the submit, in seconds.
        max_failures: Errors of its own after which it is discarded; `None` takes the setting.
    """

    model: str
    args: Mapping[str, Any] = field(repr=False)
    kind: str | None = None
    alias: str | None = None
    batch: str = ""
    custom_id: str | None = None
    idempotency_key: str | None = None
    priority: int = DEFAULT
    delay_s: float = 0.0
    at: datetime | None = None
    timeout_s: float | None = None
    max_failures: int | None = None

    def check(self, settings: Settings) -> None:
        """Refuse what no model can make good.

        Raises:
            SubmitRefused: With the name of the field.
        """
        for name in _NAMES:
            value = getattr(self, name)
            if value is not None or name in _REQUIRED:
                _check_name(name, value)
        if not isinstance(self.args, Mapping):
            raise SubmitRefused("args: give the arguments as a mapping of names to values", field="args")
        if not _is_int(self.priority) or not LOWEST <= self.priority <= HIGHEST:
            raise SubmitRefused(f"priority: give a whole number from {LOWEST} to {HIGHEST}", field="priority")
        if self.max_failures is not None and (not _is_int(self.max_failures) or self.max_failures < 1):
            raise SubmitRefused("max_failures: give a whole number of at least 1", field="max_failures")
        self._check_times(settings.max_deadline_s)

    def wait_s(self) -> float:
        """How long from now the job must not run, in seconds."""
        if self.at is not None:
            return max(0.0, self.at.timestamp() - time.time())
        return float(self.delay_s)

    def _check_times(self, max_deadline_s: float) -> None:
        if not _is_number(self.delay_s) or not 0 <= self.delay_s < float("inf"):
            raise SubmitRefused("delay_s: give a number of seconds, 0 or more", field="delay_s")
        if self.at is not None:
            if getattr(self.at, "tzinfo", None) is None:
                raise SubmitRefused("at: give a datetime with a time zone", field="at")
            if self.delay_s:
                raise SubmitRefused("at: give either at or delay_s, not both", field="at")
        if self.timeout_s is None:
            return
        if not _is_number(self.timeout_s) or not 0 < self.timeout_s <= max_deadline_s:
            raise SubmitRefused(
                f"timeout_s: give more than 0 and at most {max_deadline_s:g} seconds (setting max_deadline_s)",
                field="timeout_s",
            )
        if self.timeout_s <= self.wait_s():
            raise SubmitRefused(
                "timeout_s: the job would end before it may start; raise timeout_s", field="timeout_s"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What became of one item of a stream of requests.

    Attributes:
        index: Its place in the stream, from 0.
        job: The job that answers for it, or `None` if it was refused.
        refusal: Why it was refused, or `None`.
        fresh: Whether the job is new; an older one answers where the idempotency key was known.
    """

    index: int
    job: Job | None = None
    refusal: SubmitRefused | None = None
    fresh: bool = False


def _check_name(name: str, value: object) -> None:
    # Nearly all names are like this, and a stream may have millions.
    if type(value) is str and 0 < len(value) <= _SHORT and value.isascii() and "\x00" not in value:
        return
    if not isinstance(value, str):
        raise SubmitRefused(f"{name}: give a text", field=name)
    if name == "idempotency_key" and not value:
        raise SubmitRefused("idempotency_key: it is empty; leave it out or give a key", field=name)
    longest = _LONGEST.get(name, 64)
    if len(value) <= longest and value.isascii() and "\x00" not in value:
        return
    if len(value) > longest:
        raise SubmitRefused(f"{name}: it has {len(value)} characters; at most {longest} are kept", field=name)
    if "\x00" in value or not _encodes(value):
        raise SubmitRefused(f"{name}: it contains a character that cannot be stored; remove it", field=name)


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
