"""What an operator may set for Ming on a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelUnavailable
from .network import DEFAULT_FLOW_STEPS
from .schedule import MAX_STEPS as MAX_FLOW_STEPS
from .speech import DEFAULT_CONTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class MingSettings:
    """Settings of one worker.

    Attributes:
        flow_steps: Solver steps of a patch. One for all rows, which are solved together.
        encoder_layers: How many layers of the audio encoder run; `None` for what the published run does.
        context: Positions of a slot, prompt and steps together.
        codec_dtype: `fp32` or `bf16`, of the audio encoder and decoder.
    """

    flow_steps: int = DEFAULT_FLOW_STEPS
    encoder_layers: int | None = None
    context: int = DEFAULT_CONTEXT
    codec_dtype: str = "fp32"

    @classmethod
    def parse(cls, extra: Mapping[str, str]) -> MingSettings:
        """Read the settings of an operator.

        Raises:
            ModelUnavailable: One is unknown, or its value is not possible.
        """
        unknown = sorted(set(extra) - set(_READERS))
        if unknown:
            known = ", ".join(_READERS)
            raise ModelUnavailable(f"Ming has no setting {unknown[0]!r}; there are {known}")
        values: dict[str, Any] = {}
        for name, text in extra.items():
            try:
                values[name] = _READERS[name](text)
            except ValueError as error:
                raise ModelUnavailable(f"{name}={text!r} is not possible: {error}") from error
        return cls(**values)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ValueError(f"give a whole number from {least} to {most}")
        return int(text)

    return read


def _codec_dtype(text: str) -> str:
    if text not in {"fp32", "bf16"}:
        raise ValueError("give fp32 or bf16")
    return text


_READERS: dict[str, Callable[[str], Any]] = {
    "flow_steps": _whole(1, MAX_FLOW_STEPS),
    "encoder_layers": _whole(1, 1000),
    "context": _whole(64, 32768),
    "codec_dtype": _codec_dtype,
}
