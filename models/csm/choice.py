"""Choosing the codes of a frame: 32 choices a step, so each must be few launches.

The rules are those of the engine's sampler for temperature and top-k, and so is the draw: the
cumulative distribution in the order of the ids, inverted at one uniform number. What it derives from the
rules at every call is derived here once for each row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.resident import resident, resized
from ..engine.sampling import GREEDY, Sampling


class Choice:
    """The rules of each slot, for all codebooks."""

    def __init__(self, *, codes: int, max_top_k: int, device: torch.device | str) -> None:
        """Describe the choice; `reserve` takes the memory.

        Args:
            codes: Of one codebook, C.
            max_top_k: The most that a row may ask for: so many of the likeliest are looked for.
            device: Where logits are.
        """
        self._codes = codes
        self._ranks = min(max_top_k, codes)
        self._sharpness = resident(0, 1, dtype=torch.float32, device=device)  # 1 / temperature
        self._last = resident(0, 1, dtype=torch.int64, device=device)  # the rank of the last that stays
        self._chance = resident(0, 1, dtype=torch.float32, device=device)

    @property
    def max_top_k(self) -> int:
        """The most that a row may ask for, short of all."""
        return self._ranks

    @property
    def bytes_per_slot(self) -> int:
        """What one slot costs."""
        return int(self._sharpness.itemsize + self._last.itemsize + self._chance.itemsize)

    def reserve(self, slots: int) -> None:
        """Have room for `slots` slots; those below that number keep their rules."""
        before = len(self._last)
        self._sharpness = resized(self._sharpness, slots, fill=1.0)
        self._last = resized(self._last, slots)
        self._chance = resized(self._chance, slots)
        for slot in range(before, slots):
            self.clear(slot)

    def set(self, slot: int, sampling: Sampling) -> None:
        """Let the slot's row follow these rules."""
        greedy = sampling.temperature == 0
        kept = 1 if greedy else min(sampling.top_k or self._ranks, self._ranks)
        self._sharpness[slot] = 1.0 if greedy else 1.0 / sampling.temperature
        self._last[slot] = kept - 1
        self._chance[slot] = 0.0 if greedy else 1.0

    def move(self, source: int, target: int) -> None:
        """A row goes to another slot."""
        for rules in (self._sharpness, self._last, self._chance):
            rules[target].copy_(rules[source])

    def clear(self, slot: int) -> None:
        """Leave nothing of the slot's row behind."""
        self.set(slot, GREEDY)

    def chances(self, uniforms: Tensor) -> Tensor:
        """What `code` needs of a step's uniform numbers `[B, K]`: 0 for greedy rows, whatever they drew."""
        return uniforms * self._chance[: len(uniforms)]

    def code(self, logits: Tensor, chance: Tensor) -> Tensor:
        """Choose a code for each of the first B slots.

        Args:
            logits: Of the codes that may come, float32 `[B, C]`.
            chance: A column of `chances`, `[B, 1]`.

        Returns:
            Codes, int64 `[B]`, below C whatever the logits are; 0 where they are no numbers. Greedy rows
            get the lowest of the likeliest.
        """
        count = len(logits)
        top = logits.topk(self._ranks, dim=-1).values  # [B, R]
        least = top.gather(1, self._last[:count])
        weights = torch.exp((logits - top[:, :1]) * self._sharpness[:count])
        reached = weights.masked_fill(logits < least, 0.0).cumsum(-1)  # [B, C]
        # The largest uniform is so far below 1 that the product stays below the sum of all weights.
        return (reached <= chance * reached[:, -1:]).sum(-1)
