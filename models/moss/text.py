"""From what was submitted to the ids of each chunk; run in a helper process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InputError
from .chunking import chunks_of, pause_after
from .cleaning import clean
from .tokenizer import Tokenizer, tokenizer_of, without_controls
from .verbalizing import Spoken, installed, spoken_language, verbalize

Verbalize = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """What is done to a text before it is spoken.

    Attributes:
        language: As submitted; `None` leaves it to the letters.
        clean: Whether marks of layout go, see `cleaning`.
        verbalize: Whether numbers are written out; `auto` where the language is clear and the library there.
        budget: Tokens of a chunk; 0 does not cut.
    """

    language: str | None
    clean: bool
    verbalize: Verbalize
    budget: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What is spoken at a time: its ids, and the silence behind it."""

    ids: tuple[int, ...]
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A text made ready.

    Attributes:
        chunks: One at least, each with something to say.
        verbalized: The language in which numbers were written out.
    """

    chunks: tuple[Chunk, ...]
    verbalized: Spoken | None


def write_script(tokenizer_file: Path, text: str, manner: Manner, before: str | None = None) -> Script:
    """Make a text ready.

    Args:
        before: What a clip says that the text continues; it is put in front of the first chunk.

    Raises:
        InputError: Nothing in the text can be said.
        ModelUnavailable: The tokenizer or a library that was asked for is missing.
    """
    tokenizer = tokenizer_of(tokenizer_file)
    ready, verbalized = _made_ready(text, manner)
    if before is not None:
        heard, _ = _made_ready(before, manner)
        return Script(chunks=(_chunk(heard + ready, tokenizer),), verbalized=verbalized)
    pieces = chunks_of(ready, manner.budget, tokenizer.count)
    chunks = [_chunk(piece, tokenizer) for piece in pieces if _says_something(piece)]
    return Script(chunks=tuple(chunks), verbalized=verbalized)


def _made_ready(text: str, manner: Manner) -> tuple[str, Spoken | None]:
    text = without_controls(text)
    if manner.clean:
        text = clean(text)
    language = None if manner.verbalize == "off" else spoken_language(text, manner.language)
    if language is not None and (manner.verbalize == "on" or installed()):
        text = verbalize(text, language)
        if manner.clean:
            text = clean(text)
    else:
        language = None
    if not _says_something(text):
        raise InputError("there is nothing to say in this text: it has no letter and no digit")
    return text, language


def _chunk(text: str, tokenizer: Tokenizer) -> Chunk:
    return Chunk(ids=tuple(tokenizer.encode_spoken(text)), pause_s=pause_after(text))


def _says_something(text: str) -> bool:
    return any(character.isalnum() for character in text)
