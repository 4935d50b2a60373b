"""The arguments of CSM: speech in a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .base import Arguments, AudioFormat, AudioInput, Text, check_rate, speakable

MAX_TURNS = 64
MAX_SEED = 2**53 - 1
"""The largest whole number that every reader of JSON keeps as it is."""

Speaker = Annotated[int, Field(ge=0, le=999)]


def _number_of_a_speaker(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(  # noqa: TRY004 - the kind that pydantic turns into a refusal
            "a speaker is a whole number such as 0 or 1; its voice comes from the context"
        )
    return value


class CsmTurn(BaseModel):
    """Something that was said before: who, what, and the recording of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    speaker: Speaker = 0
    text: Text
    audio: AudioInput

    _speaker = field_validator("speaker", mode="before")(_number_of_a_speaker)
    _text = field_validator("text")(speakable)


class CsmArguments(Arguments):
    """Speech by CSM.

    `context` is what was said before, oldest first; a speaker sounds as in the turns of the same number.
    `temperature` (0 takes the likeliest code always) and `top_k` hold for all codebooks. `max_frames`,
    12.5 to a second, bounds each part of a long text and, with the context, shares the model's 2,048
    positions; `max_seconds` bounds the whole.
    """

    text: Text
    speaker: Speaker = 0
    context: tuple[CsmTurn, ...] = Field(default=(), max_length=MAX_TURNS)
    temperature: float = Field(default=0.9, ge=0, le=2)
    top_k: int = Field(default=50, ge=1, le=100)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    max_frames: int = Field(default=1024, ge=1, le=2000)
    max_seconds: float | None = Field(default=None, gt=0, le=3600)
    format: AudioFormat = "wav"
    sample_rate: int = 24000

    _speaker = field_validator("speaker", mode="before")(_number_of_a_speaker)
    _text = field_validator("text")(speakable)

    @model_validator(mode="after")
    def _rate_fits_format(self) -> Self:
        check_rate(self.format, self.sample_rate)
        return self
