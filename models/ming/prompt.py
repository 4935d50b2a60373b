"""Prompts: the token ids that the backbone reads, and the places where vectors stand in for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .instruction import instruction_json
from .tokenizer import MingTokenizer

SPEECH = "Please generate speech based on the following description.\n"
MUSIC = "Please generate music based on the following description.\n"
SOUND = "Please generate audio events based on given text.\n"

_SPEAKER, _SPEAKER_PLACE, _SPEAKER_END = "<|vision_start|>", "<|vision_pad|>", "<|vision_end|>"
_START, _PATCH = "<audio>", "<audioPatch>"
_MUSIC_FIELDS = ("Genre: ", "Mood: ", "Instrument: ", "Theme: ", "Duration: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptIds:
    """A prompt as ids.

    Attributes:
        ids: All of it.
        speakers: Where the speakers' vectors go, in their order.
        patches: Where the vectors of the prompt's patches go: the last positions.
    """

    ids: tuple[int, ...]
    speakers: tuple[int, ...]
    patches: tuple[int, ...]


class PromptWriter:
    """Builds the prompts of one tokenizer."""

    def __init__(self, tokenizer: MingTokenizer) -> None:
        self._tokenizer = tokenizer
        self._speaker = tokenizer.control(_SPEAKER)
        self._speaker_place = tokenizer.control(_SPEAKER_PLACE)
        self._start = tokenizer.control(_START)
        self._patch = tokenizer.control(_PATCH)

    def write(
        self,
        task: str,
        text: str,
        *,
        speakers: int = 0,
        transcript: str | None = None,
        patches: int = 0,
        entries: Mapping[str, Any] | None = None,
    ) -> PromptIds:
        """Build one prompt. Its pieces are encoded one by one, as in training.

        Args:
            task: `SPEECH`, `MUSIC` or `SOUND`.
            text: What is to be made; see `music_text` and `podcast_text` for their forms.
            speakers: Vectors of speakers.
            transcript: What is said in the prompt audio.
            patches: Patches of the prompt audio; 0 without a transcript.
            entries: Of the instruction, if there is one.
        """
        encode, encode_text = self._tokenizer.encode, self._tokenizer.encode_text
        ids = encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
        ids += encode("<|im_start|>user\n") + encode(task)
        places = []
        for number in range(1, speakers + 1):
            ids += [*encode(f"  speaker_{number}:"), self._speaker]
            places.append(len(ids))
            ids += [self._speaker_place, *encode(f"{_SPEAKER_END}\n")]
        if not all(name in text for name in _MUSIC_FIELDS):
            ids += encode(" Text input:\n")
        if transcript is not None:
            ids += encode_text(transcript)
        ids += encode_text(text)
        ids += encode("<|im_end|>\n") + encode("<|im_start|>assistant\n")
        if entries is not None:
            ids += encode_text(instruction_json(entries)) + encode("<|endoftext|>")
        ids.append(self._start)
        first = len(ids)
        ids += [self._patch] * patches
        return PromptIds(ids=tuple(ids), speakers=tuple(places), patches=tuple(range(first, first + patches)))


def music_text(music: Mapping[str, str]) -> str:
    """The text of background music from `genre`, `mood`, `instrument`, `theme` and `duration`."""
    fields = (f"{name}{music[name.rstrip(': ').lower()]}" for name in _MUSIC_FIELDS)
    return " " + " ".join(value if value.endswith(".") else f"{value}." for value in fields)


def podcast_text(turns: Sequence[tuple[int, str]]) -> str:
    """The text, or the transcript, of a podcast from the turns of its speakers.

    Args:
        turns: The number of a speaker, from 1 on, and what is said.
    """
    return "".join(f" speaker_{number}:{said}\n" for number, said in turns)


def podcast_turns(script: str, speakers: int) -> list[tuple[int, str]]:
    """Read a script of lines `speaker_1: …`.

    Args:
        speakers: How many there are.

    Raises:
        InputError: A line names no speaker, or one that is not there, or nothing that is said.
    """
    turns = []
    for line in filter(str.strip, script.splitlines()):
        name, _, said = line.strip().partition(":")
        number = name.strip().removeprefix("speaker_")
        if not said.strip() or not number.isdecimal() or not 1 <= int(number) <= speakers:
            raise InputError(
                f"every line of a podcast names its speaker, speaker_1 to speaker_{speakers}, and a colon"
                f" before what is said; this one does not: {line.strip()[:40]!r}"
            )
        turns.append((int(number), said.strip()))
    return turns
