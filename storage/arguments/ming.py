"""The arguments of Ming-omni-tts: speech in many manners, podcasts, music and sound effects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from .base import Arguments, AudioFormat, AudioInput, Text, check_rate, speakable

MAX_SEED = 2**53 - 1
"""The largest whole number that every reader of JSON keeps as it is."""

MingTask = Literal[
    "tts",
    "clone",
    "speaker",
    "emotion",
    "dialect",
    "style",
    "control",
    "voice",
    "design",
    "podcast",
    "sound",
    "music",
    "speech_with_music",
]

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
Rate = Literal["slow", "medium", "fast", "慢速", "中速", "快速"]
Level = Literal["low", "medium", "high", "低", "中", "高"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MingNeeds:
    """What a task asks for.

    Attributes:
        fields: All of them have to be given, and no other input.
        one_of: At least one of these entries of the instruction; none means that it takes no instruction.
    """

    fields: tuple[str, ...]
    one_of: tuple[str, ...] = ()


_SPOKEN_BY = ("text", "speaker_audio", "instruction")

MING_TASKS: dict[MingTask, MingNeeds] = {
    "tts": MingNeeds(fields=("text",)),
    "clone": MingNeeds(fields=("text", "prompt_audio", "prompt_text")),
    "speaker": MingNeeds(fields=("text", "speaker_audio")),
    "emotion": MingNeeds(fields=_SPOKEN_BY, one_of=("emotion",)),
    "dialect": MingNeeds(fields=_SPOKEN_BY, one_of=("dialect",)),
    "style": MingNeeds(fields=_SPOKEN_BY, one_of=("style",)),
    "control": MingNeeds(fields=_SPOKEN_BY, one_of=("speed", "pitch", "volume")),
    "voice": MingNeeds(fields=("text", "instruction"), one_of=("voice",)),
    "design": MingNeeds(fields=("text", "instruction"), one_of=("style",)),
    "podcast": MingNeeds(fields=("text", "speakers")),
    "sound": MingNeeds(fields=("text",)),
    "music": MingNeeds(fields=("music",)),
    "speech_with_music": MingNeeds(fields=_SPOKEN_BY, one_of=("background",)),
}
"""Each task and its inputs."""

_INPUTS = ("text", "prompt_audio", "prompt_text", "speaker_audio", "speakers", "instruction", "music")

_PODCAST_SPEAKERS = 2
_TURN = re.compile(rf"\s*speaker_[1-{_PODCAST_SPEAKERS}]\s*:\s*\S")

_SOUND_FLOW = {"cfg": 4.5, "sigma": 0.3, "temperature": 2.5}
_FLOW = {"cfg": 2.0, "sigma": 0.25, "temperature": 0.0}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MingBackground(_Part):
    """What is heard behind the speech: music by its four words, or the sound of a place.

    `snr_db` is how much louder the speech is.
    """

    genre: Words | None = None
    mood: Words | None = None
    instrument: Words | None = None
    theme: Words | None = None
    ambience: Words | None = None
    snr_db: float = Field(default=10.0, ge=-20, le=60)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not any((self.genre, self.mood, self.instrument, self.theme, self.ambience)):
            raise ValueError(
                "an empty background; give genre, mood, instrument and theme of music, or an ambience"
            )
        return self


class MingInstruction(_Part):
    """How it is said. Emotion, dialect and voice are free text; what is on no known list gets a warning."""

    emotion: Words | None = None
    dialect: Words | None = None
    style: Words | None = None
    speed: Rate | None = None
    pitch: Level | None = None
    volume: Level | None = None
    voice: Words | None = None
    background: MingBackground | None = None


class MingMusic(_Part):
    """Background music on its own. `duration` is what the model is told, such as `30s`."""

    genre: Words
    mood: Words
    instrument: Words
    theme: Words
    duration: Words = "30s"


class MingSpeaker(_Part):
    """One speaker of a podcast: a recording, and what is said in it."""

    audio: AudioInput
    text: Text

    _text = field_validator("text")(speakable)


class MingArguments(Arguments):
    """Speech, music or sound by Ming-omni-tts.

    `task` says what is made and which inputs it needs:

        tts                text
        clone              text, prompt_audio and prompt_text: what is said in it
        speaker            text, speaker_audio
        emotion, dialect, style, control, speech_with_music
                           text, speaker_audio, instruction
        voice, design      text, instruction with a voice of the model's, or with the style of a new one
        podcast            text with a line for each turn (`speaker_1: …`), two speakers
        sound              text that describes a sound
        music              music

    `cfg`, `sigma` and `temperature` guide the flow; sound has defaults of its own. A step is 0.32 s of audio,
    and `max_steps` bounds each part of a text. Long texts are split at sentence ends into parts of about
    `chunk_s` seconds, joined with `pause_s` of silence; podcast, music and sound are made in one part.
    `normalize` spells out Chinese dates and numbers, except in those three. The prompt's latents are drawn
    with the seed (`sample`), as the published loop does, or are their `mean`.
    """

    task: MingTask = "tts"
    text: Text | None = None
    prompt_audio: AudioInput | None = None
    prompt_text: Text | None = None
    speaker_audio: AudioInput | None = None
    speakers: tuple[MingSpeaker, ...] = Field(default=(), max_length=8)
    instruction: MingInstruction | None = None
    music: MingMusic | None = None
    cfg: float = Field(default_factory=lambda given: _flow_of(given)["cfg"], ge=0, le=20)
    sigma: float = Field(default_factory=lambda given: _flow_of(given)["sigma"], ge=0, le=2)
    temperature: float = Field(default_factory=lambda given: _flow_of(given)["temperature"], ge=0, le=10)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    max_steps: int = Field(
        default_factory=lambda given: 400 if given.get("task") == "music" else 200, ge=5, le=400
    )
    chunk_s: float = Field(default=20.0, ge=5, le=40)
    pause_s: float = Field(default=0.3, ge=0, le=5)
    normalize: bool = False
    prompt_latents: Literal["sample", "mean"] = "sample"
    format: AudioFormat = "wav"
    sample_rate: int = Field(default_factory=lambda given: 48000 if given.get("format") == "opus" else 44100)

    @field_validator("text", "prompt_text")
    @classmethod
    def _speakable(cls, text: str | None) -> str | None:
        return None if text is None else speakable(text)

    @model_validator(mode="after")
    def _inputs_fit_task(self) -> Self:
        needs = MING_TASKS[self.task]
        given = [name for name in _INPUTS if getattr(self, name) not in (None, ())]
        missing = [name for name in needs.fields if name not in given]
        if missing:
            raise ValueError(
                f"task {self.task!r} needs {_listed(needs.fields)}; {_listed(missing)} is missing"
            )
        spare = [name for name in given if name not in needs.fields]
        if spare:
            fit = [task for task, other in MING_TASKS.items() if set(given) <= set(other.fields)]
            hint = f"; {_listed(fit, 'or')} would take that" if fit else ""
            raise ValueError(
                f"task {self.task!r} takes {_listed(needs.fields)}, and has no use for {_listed(spare)}{hint}"
            )
        self._check_instruction(needs)
        if self.task == "podcast":
            self._check_podcast()
        check_rate(self.format, self.sample_rate)
        return self

    def _check_podcast(self) -> None:
        if len(self.speakers) != _PODCAST_SPEAKERS:
            raise ValueError(f"a podcast has {_PODCAST_SPEAKERS} speakers; {len(self.speakers)} is given")
        for number, line in enumerate((self.text or "").splitlines(), 1):
            if line.strip() and not _TURN.match(line):
                raise ValueError(
                    f"text: line {number} of the podcast does not say who speaks; write every line as"
                    " `speaker_1: …` or `speaker_2: …`"
                )

    def _check_instruction(self, needs: MingNeeds) -> None:
        if needs.one_of and not any(getattr(self.instruction, name) is not None for name in needs.one_of):
            raise ValueError(f"task {self.task!r} needs {_listed(needs.one_of, 'or')} in its instruction")


def _flow_of(given: dict[str, Any]) -> dict[str, float]:
    return _SOUND_FLOW if given.get("task") == "sound" else _FLOW


def _listed(names: Any, last: str = "and") -> str:
    *before, final = names
    return f"{', '.join(before)} {last} {final}" if before else final
