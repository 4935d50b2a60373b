"""What the arguments of all models are made of."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_TEXT_CHARS = 100_000

AudioFormat = Literal["wav", "flac", "mp3", "opus"]
AlignmentFormat = Literal[
    "json", "textgrid", "textgrid-short", "srt", "vtt", "ass", "ctm", "tsv", "audacity", "png"
]

SAMPLE_RATES_HZ: dict[str, tuple[int, ...]] = {
    "wav": (8000, 16000, 22050, 24000, 32000, 44100, 48000),
    "flac": (8000, 16000, 22050, 24000, 32000, 44100, 48000),
    "mp3": (8000, 16000, 22050, 24000, 32000, 44100, 48000),
    "opus": (8000, 16000, 24000, 48000),  # RFC 6716, section 2: the rates that Opus codes
}


class Arguments(BaseModel):
    """What all arguments share: frozen, no unknown fields, no NaN, a version."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: ClassVar[int] = 1

    @classmethod
    def upgrade(cls, args: dict[str, Any], version: int) -> dict[str, Any]:
        """Bring the arguments of an older row to this version."""
        if version != cls.version:
            raise ValueError(f"arguments of version {version} cannot be read by version {cls.version}")
        return args


class ArtifactInput(BaseModel):
    """Audio that lies in storage, by its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    artifact: str = Field(pattern=r"^[0-9a-f]{64}$")


class JobInput(BaseModel):
    """The audio that another job made. A name that begins with `@` is an alias in the same submit."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    job: str = Field(min_length=1, max_length=64)


AudioInput = ArtifactInput | JobInput

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]


def speakable(text: str) -> str:
    """A validator: text with something in it that can be said, and that can be stored."""
    if not text.strip():
        raise ValueError("the text is empty; give at least one word")
    if "\x00" in text:
        raise ValueError("the text contains a NUL character; remove it")
    return text


def check_rate(audio_format: AudioFormat, sample_rate: int) -> None:
    """Raise `ValueError` for a sample rate in which audio of that format is not written."""
    rates = SAMPLE_RATES_HZ[audio_format]
    if sample_rate not in rates:
        allowed = ", ".join(str(rate) for rate in rates)
        raise ValueError(f"sample_rate {sample_rate} is not offered for {audio_format}; use one of {allowed}")
