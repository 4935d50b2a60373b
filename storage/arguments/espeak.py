"""The arguments of the two models that stand on eSpeak NG."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from .base import AlignmentFormat, Arguments, AudioFormat, AudioInput, Text, check_rate, speakable


class _Spoken(Arguments):
    """Arguments with a text in a language."""

    text: Text
    language: str = Field(default="en-us", max_length=40)

    _text = field_validator("text")(speakable)


class EspeakArguments(_Spoken):
    """Speech by eSpeak NG.

    `speed` is a factor on 175 words a minute, `pitch` eSpeak's own scale of 0 to 99, `voice` a
    variant of eSpeak (`f2`, `m3`, `whisper`, …) or `None` for the language's own voice. The sample rate
    is eSpeak's own 22,050 Hz, or 24,000 Hz for Opus, which has no such rate.
    """

    voice: str | None = Field(default=None, max_length=40)
    speed: float = Field(default=1.0, ge=0.5, le=2.5)
    pitch: int = Field(default=50, ge=0, le=99)
    format: AudioFormat = "wav"
    sample_rate: int = Field(default_factory=lambda given: 24000 if given.get("format") == "opus" else 22050)
    word_times: bool = True

    @model_validator(mode="after")
    def _rate_fits_format(self) -> Self:
        check_rate(self.format, self.sample_rate)
        return self


class DtwArguments(_Spoken):
    """Alignment of a recording with its text by eSpeak's rendering of the same text."""

    audio: AudioInput
    outputs: tuple[AlignmentFormat, ...] = Field(default=("json", "textgrid"), min_length=1)
