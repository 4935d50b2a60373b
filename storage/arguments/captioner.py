"""The arguments of the captioner: what a clip sounds like, in words."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from .base import Arguments, AudioInput, speakable

MAX_PROMPT_CHARS = 8_000
MAX_SEED = 2**53 - 1
"""The largest whole number that every reader of JSON keeps as it is."""

Prompt = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARS)]


class CaptionerArguments(Arguments):
    """A caption by the ACE-Step captioner.

    `task` is a named prompt, and `prompt` words of one's own in its place. `temperature` 0 takes the
    likeliest token always; above it `top_k`, `top_p`, `repetition_penalty` and `seed` say how tokens are
    drawn. `max_new_tokens` bounds the caption of each window. A clip longer than `window_s` seconds is
    captioned in windows of about equal length.
    """

    audio: AudioInput
    task: Literal["describe", "describe-music", "transcribe"] = "describe"
    prompt: Prompt | None = None
    system_prompt: Prompt = "You are a helpful assistant."
    max_new_tokens: int = Field(default=512, ge=1, le=1024)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_k: int = Field(default=50, ge=1, le=1000)
    top_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, ge=0.5, le=2)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    window_s: float = Field(default=300.0, ge=10, le=300)

    @field_validator("prompt", "system_prompt")
    @classmethod
    def _words(cls, text: str | None) -> str | None:
        return None if text is None else speakable(text)
