"""The tokenizer: byte-level BPE whose control tokens cannot be written by a submitter."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable

FILE_NAME = "tokenizer.json"


class MingTokenizer:
    """Text to token ids."""

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer of a checkpoint.

        Raises:
            ModelUnavailable: A library or the file is missing.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ModelUnavailable("tokenizers is missing; install soundmill[models]") from error
        path = folder / FILE_NAME
        if not path.is_file():
            raise ModelUnavailable(f"{path} is missing; download the checkpoint again into its folder")
        self._tokenizer: Any = Tokenizer.from_file(str(path))
        added = (token.content for token in self._tokenizer.get_added_tokens_decoder().values())
        self._control = re.compile("|".join(re.escape(text) for text in sorted(added, key=len, reverse=True)))

    def control(self, token: str) -> int:
        """The id of a control token.

        Raises:
            ModelUnavailable: This tokenizer has none of that name.
        """
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise ModelUnavailable(f"{FILE_NAME} has no token {token}; it is not that of Ming-omni-tts")
        return number

    def encode(self, piece: str) -> list[int]:
        """The ids of a piece of our own, in which control tokens count."""
        ids: list[int] = self._tokenizer.encode(piece, add_special_tokens=False).ids
        return ids

    def encode_text(self, text: str) -> list[int]:
        """The ids of a submitter's text.

        A control token in it is spelled out: cut behind its first letter, it is no token any more.
        """
        text = unicodedata.normalize(
            "NFC", text
        )  # as the tokenizer does, so that no control token arises later
        ids: list[int] = []
        begun = 0
        for found in self._control.finditer(text):
            ids += self.encode(text[begun : found.start() + 1])
            begun = found.start() + 1
        return ids + self.encode(text[begun:])
