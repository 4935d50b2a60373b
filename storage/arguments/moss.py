"""The arguments of MOSS: speech in 20 languages, in a voice of one's choice."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from .base import Arguments, AudioFormat, AudioInput, Text, check_rate, speakable

MAX_SEED = 2**53 - 1
"""The largest whole number that every reader of JSON keeps as it is."""

MOSS_LANGUAGES = (
    "ar", "cs", "da", "de", "el", "en", "es", "fa", "fr", "he", "hu", "it", "ja", "ko", "pl", "pt", "ru",
    "sv", "tr", "zh",
)  # fmt: skip

MOSS_VOICES = (
    "Junhao", "Zhiming", "Weiguo", "Xiaoyu", "Yuewen", "Lingyu", "Trump", "Ava", "Bella", "Adam", "Nathan",
    "Sakura", "Yui", "Aoi", "Hina", "Mei",
)  # fmt: skip
"""The published presets; a worker has those whose recordings its operator put there."""

Voice = Annotated[str, StringConstraints(pattern=r"^[\w-]{1,64}$")]
Temperature = Annotated[float, Field(ge=0, le=5)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0, le=1024)]


class MossArguments(Arguments):
    """Speech by MOSS-TTS-Nano.

    The voice is that of `reference`, a clip of up to 15 s, or of `voice`, a recording on the worker; with
    neither the model chooses one. With `reference_text`, what the clip says, the clip is continued instead of
    copied: then, and without a voice, the text has to fit one chunk. Otherwise it is cut into chunks of
    `max_text_tokens` (0 for none), joined with short pauses. `max_new_frames`, 12.5 to a second, bounds each
    chunk of up to 75 tokens, and longer ones in proportion.

    A frame begins with the gate, which goes on or stops, and has up to `n_codebooks` codes; each has its rules
    for drawing. A temperature of 0 takes the likeliest always, a top_k of 0 keeps all. `clean` makes the text
    regular, `verbalize` writes numbers out (`auto`: in Chinese and English where the worker can).
    """

    text: Text
    language: str | None = None
    voice: Voice | None = None
    reference: AudioInput | None = None
    reference_text: Text | None = None
    max_text_tokens: int = Field(default=75, ge=0, le=1000)
    max_new_frames: int = Field(default=375, ge=1, le=2000)
    n_codebooks: int = Field(default=16, ge=1, le=64)
    gate_temperature: Temperature = 1.0
    gate_top_p: TopP = 1.0
    gate_top_k: TopK = 50
    audio_temperature: Temperature = 0.8
    audio_top_p: TopP = 0.95
    audio_top_k: TopK = 25
    audio_repetition_penalty: float = Field(default=1.2, ge=0.5, le=3)
    clean: bool = True
    verbalize: Literal["auto", "on", "off"] = "auto"
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    format: AudioFormat = "wav"
    sample_rate: int = 48000

    @field_validator("text", "reference_text")
    @classmethod
    def _words(cls, text: str | None) -> str | None:
        return None if text is None else speakable(text)

    @field_validator("language")
    @classmethod
    def _known_language(cls, language: str | None) -> str | None:
        if language is None or language in MOSS_LANGUAGES:
            return language
        short = language.replace("_", "-").lower().split("-")[0]
        if short in MOSS_LANGUAGES:
            return short
        raise ValueError(f"{language!r} is not among the model's languages: {', '.join(MOSS_LANGUAGES)}")

    @model_validator(mode="after")
    def _one_voice(self) -> Self:
        if self.voice is not None and self.reference is not None:
            raise ValueError("voice and reference both name a voice; give one of them")
        if self.reference_text is not None and self.voice is None and self.reference is None:
            raise ValueError("reference_text belongs to a recording; give reference too")
        check_rate(self.format, self.sample_rate)
        return self
