"""Prompts: what was said so far and what is to be said, as positions of the backbone.

A position is a text token or a frame of codes. A turn is

    <|begin_of_text|>[SPEAKER]TEXT<|end_of_text|>  frames …  a frame of end codes

and the prompt ends with the text that is to be spoken, without a recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ..engine.sampling import Sampling
from ..errors import ModelUnavailable
from .sizes import Sizes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """Something that was said.

    Attributes:
        codes: The recording, int16 `[F, K]` in host memory.
    """

    speaker: int
    text: str
    codes: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """The first positions of a row, in host memory, and how it goes on.

    Attributes:
        text: Ids of text tokens, int64 `[T]`; 0 where a frame stands.
        codes: Frames, int64 `[T, K]`; 0 where a text token stands.
        audio: Which positions are frames, bool `[T]`.
        sampling: How codes are chosen, in all codebooks alike.
        seed: Of the draws.
    """

    text: Tensor
    codes: Tensor
    audio: Tensor
    sampling: Sampling
    seed: int

    def __len__(self) -> int:
        return len(self.text)


class Tokens:
    """The ids of a text with its speaker. Safe between threads."""

    def __init__(self, tokenizer: Any, begin: int, end: int) -> None:
        """Take a `tokenizers.Tokenizer`, whose special tokens mean nothing inside of texts.

        Args:
            tokenizer: Nobody else's: it is changed.
            begin: The id that begins a turn.
            end: The id that ends its text.
        """
        # Text of the user's must not be taken for the marks of a recording.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._begin = begin
        self._end = end

    @classmethod
    def of(cls, tokenizer: Any, config: Any) -> Self:
        """From a fast tokenizer of transformers.

        Raises:
            ModelUnavailable: It lacks the special tokens, or has more ids than the model.
        """
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        if begin is None or end is None:
            raise ModelUnavailable("tokenizer_config.json: bos_token or eos_token is missing")
        if max(begin, end, len(tokenizer) - 1) >= config.text_vocab_size:
            raise ModelUnavailable("tokenizer.json: it has more ids than the model's text_vocab_size")
        return cls(tokenizer.backend_tokenizer, begin, end)

    def ids(self, speaker: int, text: str) -> list[int]:
        """The ids of a turn's text."""
        inner = self._tokenizer.encode(f"[{speaker}]{text}", add_special_tokens=False).ids
        return [self._begin, *inner, self._end]


class Prompter:
    """Puts prompts together. Safe between threads."""

    def __init__(self, tokens: Tokens, sizes: Sizes) -> None:
        self._tokens = tokens
        self._sizes = sizes

    def length_of_text(self, speaker: int, text: str) -> int:
        """How many positions a text takes."""
        return len(self._tokens.ids(speaker, text))

    def length(self, turn: Turn) -> int:
        """How many positions a turn takes."""
        return self.length_of_text(turn.speaker, turn.text) + len(turn.codes) + 1

    def prompt(
        self, turns: Sequence[Turn], speaker: int, text: str, *, sampling: Sampling, seed: int
    ) -> Prompt:
        """The prompt for `text`, said by `speaker` after `turns`."""
        texts: list[Tensor] = []
        codes: list[Tensor] = []
        for turn in turns:
            ids = torch.tensor(self._tokens.ids(turn.speaker, turn.text))
            frames = len(turn.codes) + 1
            end = torch.full((1, self._sizes.codebooks), self._sizes.end)
            texts += [ids, torch.zeros(frames, dtype=torch.int64)]
            codes += [self._no_codes(len(ids)), turn.codes.long(), end]
        ids = torch.tensor(self._tokens.ids(speaker, text))
        texts.append(ids)
        codes.append(self._no_codes(len(ids)))
        audio = torch.cat([torch.full((len(part),), place % 2 == 1) for place, part in enumerate(texts)])
        return Prompt(
            text=torch.cat(texts), codes=torch.cat(codes), audio=audio, sampling=sampling, seed=seed
        )

    def _no_codes(self, count: int) -> Tensor:
        return torch.zeros((count, self._sizes.codebooks), dtype=torch.int64)
