"""Prompts as token ids and ids as text, by the checkpoint's own tokenizer and without its processor.

The processor would ask for Pillow and torchvision, which an audio prompt has no use for. What a
submitter wrote is tokenised as words always: a `<|im_end|>` in it ends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelUnavailable
from .shape import Shape, read_json

TASKS = {
    "describe": "*Task* Describe this audio in detail",
    "describe-music": (
        "*Task* Describe this music in detail. Include genre, mood, instrumentation, tempo feel, and "
        "vocal style if present."
    ),
    "transcribe": "*Task* Transcribe this audio in detail",
}
"""The prompts that have names. The first and the last are those of the published models."""

_TURN_START, _TURN_END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """A prompt around its audio: the ids before the audio's and those behind them."""

    before: tuple[int, ...]
    behind: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.before) + len(self.behind)


class Speller:
    """Ids of prompts, and the words of generated ids. Safe between threads."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        """Read the tokenizer of a checkpoint.

        Raises:
            ModelUnavailable: It is missing, damaged, or another model's.
        """
        self._tokenizer = _tokenizer(folder)
        self._tokenizer.encode_special_tokens = True  # special tokens in a text are spelled out as words
        self._shape = shape
        self._turn_start = self._special(folder, _TURN_START)
        self._turn_end = self._special(folder, _TURN_END)
        self.stops = _stops(folder) | {self._turn_end}

    def _special(self, folder: Path, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ModelUnavailable(f"the tokenizer in {folder} has no {token}: it is another model's")
        return int(found)

    def wording(self, prompt: str, system: str) -> Wording:
        """A conversation of one turn: the system's words, the prompt, the audio, and the answer's start."""
        start, end, line = [self._turn_start], [self._turn_end], self.ids("\n")
        before = [*start, *self.ids(f"system\n{system}"), *end, *line]
        before += [*start, *self.ids(f"user\n{prompt}"), self._shape.audio_start_id]
        behind = [self._shape.audio_end_id, *end, *line, *start, *self.ids("assistant\n")]
        return Wording(before=tuple(before), behind=tuple(behind))

    def ids(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            InputError: It has lone surrogates.
        """
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except (TypeError, UnicodeError) as error:
            raise InputError("the prompt is no text that can be encoded; remove lone surrogates") from error

    def text(self, ids: list[int]) -> str:
        """The words of generated ids, without special tokens and without space around them."""
        words: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return words.replace("\x00", "").strip()  # PostgreSQL takes no NUL in a text


def _tokenizer(folder: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ModelUnavailable("the captioner needs tokenizers; install soundmill[models]") from error
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelUnavailable(f"{path} is missing; download the checkpoint again with its tokenizer files")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelUnavailable(f"{path} is damaged ({error}); download it again") from error


def _stops(folder: Path) -> set[int]:
    """The ids at which the checkpoint's own settings end an answer."""
    if not (folder / "generation_config.json").is_file():
        return set()
    found = read_json(folder / "generation_config.json").get("eos_token_id")
    return {int(token) for token in (found if isinstance(found, list) else [found]) if token is not None}
