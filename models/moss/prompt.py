"""The rows of a request: what stands around the reference clip and the text.

A row is a text id and K codes; rows without sound have the padding id in all K columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .config import LanguageConfig
from .tokenizer import Tokenizer

_FIELDS = ("Instruction", "Tokens", "Quality", "Sound Event", "Ambient Sound", "Language")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The ids of the fixed parts, each encoded by itself."""

    config: LanguageConfig
    user_prefix: tuple[int, ...]
    after_reference: tuple[int, ...]
    assistant_prefix: tuple[int, ...]
    none: tuple[int, ...]

    @classmethod
    def of(cls, config: LanguageConfig, tokenizer: Tokenizer) -> Self:
        """Encode the parts."""
        encode = tokenizer.encode
        fields = "".join(f"- {name}:\nNone\n" for name in _FIELDS)
        return cls(
            config=config,
            user_prefix=(
                config.im_start, *encode("user\n"), *encode("<user_inst>\n- Reference(s):\n"),
            ),
            after_reference=tuple(encode(f"\n{fields}- Text:\n")),
            assistant_prefix=(
                *encode("\n</user_inst>"), config.im_end, *encode("\n"),
                config.im_start, *encode("assistant\n"),
            ),
            none=tuple(encode("None")),
        )  # fmt: skip

    @property
    def overhead(self) -> int:
        """Rows of a cloned voice's prompt beside the reference and the text."""
        return len(self.user_prefix) + len(self.after_reference) + len(self.assistant_prefix) + 3

    def clone(self, reference: Tensor, text: list[int], *, codebooks: int) -> tuple[Tensor, int]:
        """The prompt that speaks in the voice of a reference.

        Args:
            reference: Codes `[F, K]`.
            text: The ids of the text.
            codebooks: How many codebooks are in use; the others are padded in the reference too.

        Returns:
            The rows `[T, 1 + K]`, and how many of the first ones every text of this voice shares.
        """
        config = self.config
        before = self._text([*self.user_prefix, config.audio_start])
        sound = self._sound(config.user_slot, reference, codebooks)
        after = self._text([config.audio_end, *self.after_reference])
        rest = self._text([*text, *self.assistant_prefix, config.audio_start])
        return torch.cat((before, sound, after, rest)), len(before) + len(sound) + len(after)

    def continued(self, text: list[int], spoken: Tensor | None, *, codebooks: int) -> Tensor:
        """The prompt that speaks a text, going on from a clip if there is one.

        Args:
            text: The ids of the text; with a clip, of what it says and of what is to follow.
            spoken: Codes `[F, K]` of the clip.
            codebooks: As for `clone`.
        """
        config = self.config
        ids = [*self.user_prefix, *self.none, *self.after_reference, *text, *self.assistant_prefix]
        rows = self._text([*ids, config.audio_start])
        if spoken is None:
            return rows
        return torch.cat((rows, self._sound(config.assistant_slot, spoken, codebooks)))

    def _text(self, ids: list[int]) -> Tensor:
        rows = torch.full((len(ids), 1 + self.config.codebooks), self.config.audio_pad, dtype=torch.int64)
        rows[:, 0] = torch.tensor(ids, dtype=torch.int64)
        return rows

    def _sound(self, slot: int, codes: Tensor, codebooks: int) -> Tensor:
        rows = self._text([slot] * len(codes))
        rows[:, 1 : 1 + codebooks] = codes[:, :codebooks]
        return rows
