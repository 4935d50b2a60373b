"""What an operator may set for MOSS beside the options of every model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from ..errors import ModelUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class MossSettings:
    """The settings of one family, given as text.

    Attributes:
        codec: The folder of the codec, where it does not lie beside the model.
        voices: A folder with recordings of voices.
        context: Positions of a slot: 78 and the prompt, the text, the frames of the reference and those made.
        linears: `int8` keeps the linear layers of the language model in 8 bits, on a processor.
        kept_voices: Of how many voices the keys and values are kept.
    """

    codec: str | None = None
    voices: str | None = None
    context: int = 1280
    linears: str = "auto"
    kept_voices: int = 8

    @classmethod
    def read(cls, extra: Mapping[str, str]) -> Self:
        """Read the settings.

        Raises:
            ModelUnavailable: One is unknown or of no use.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(extra) - known)
        if unknown:
            raise ModelUnavailable(
                f"moss-tts-nano-100m has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}"
            )
        values: dict[str, str | int] = dict(extra)
        for name in ("context", "kept_voices"):
            if name in extra:
                if not extra[name].isdecimal():
                    raise ModelUnavailable(f"{name} is a whole number, not {extra[name]!r}")
                values[name] = int(extra[name])
        if values.get("linears", "auto") not in ("auto", "int8"):
            raise ModelUnavailable(f"linears is auto or int8, not {values['linears']!r}")
        return cls(**values)  # type: ignore[arg-type]
