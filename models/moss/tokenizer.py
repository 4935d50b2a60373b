"""SentencePiece for MOSS: nobody's text becomes a control token."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable

CONTROL = re.compile(r"<\|[^<>|]{0,64}\|>|</?user_inst>|</?s>|<pad>|<unk>")
_SPECIAL = re.compile(r"(<s>|</s>|<pad>|<unk>)")


class Tokenizer:
    """A `tokenizer.model`. Byte pieces cover every script, so no character is ever unknown."""

    def __init__(self, file: Path) -> None:
        """Load it.

        Raises:
            ModelUnavailable: The library or the file is missing, or the file is damaged.
        """
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise ModelUnavailable("sentencepiece is missing; install soundmill[models]") from error
        if not file.is_file():
            raise ModelUnavailable(f"{file} is missing; download the checkpoint again")
        try:
            self._pieces: Any = SentencePieceProcessor(model_file=str(file))
        except (RuntimeError, OSError) as error:
            raise ModelUnavailable(f"{file} is no SentencePiece model; download it again") from error
        ids = range(self._pieces.get_piece_size())
        self.controls = frozenset(
            i for i in ids if self._pieces.is_control(i) or CONTROL.fullmatch(self._pieces.id_to_piece(i))
        )

    def encode(self, text: str) -> list[int]:
        """The ids of a text of ours: control tokens that are written out in it become their ids."""
        ids: list[int] = []
        for part in _SPECIAL.split(text):
            ids += [self._pieces.piece_to_id(part)] if _SPECIAL.fullmatch(part) else self._pieces.encode(part)
        return ids

    def encode_spoken(self, text: str) -> list[int]:
        """The ids of a text of somebody else.

        What is left of control tokens behind `without_controls`, such as those that only the normaliser's
        NFKC brings to light, is dropped.
        """
        return [i for i in self._pieces.encode(without_controls(text)) if i not in self.controls]

    def count(self, text: str) -> int:
        """How many ids `encode_spoken` gives."""
        return len(self.encode_spoken(text))


def without_controls(text: str) -> str:
    """Put a space for everything that is spelled like a control token."""
    while CONTROL.search(text):  # what is cut out may bring two halves together
        text = CONTROL.sub(" ", text)
    return text


@lru_cache(maxsize=4)
def tokenizer_of(file: Path) -> Tokenizer:
    """The tokenizer of a file, loaded once in each process."""
    return Tokenizer(file)


Count = Callable[[str], int]
"""How many tokens a text has."""
