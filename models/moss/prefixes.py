"""Voices' prefixes: keys and values of the rows that all chunks of a voice begin with."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from ..engine.cache import SlotCache
from ..engine.resident import resident


class Prefixes:
    """The voices used last. All memory is taken at once, so that slots are sized with it in place.

    Attributes:
        longest: Positions of the longest prefix that is kept.
    """

    def __init__(self, cache: SlotCache, voices: int, positions: int) -> None:
        """Take the memory.

        Args:
            cache: Whose slots they are copied from and to.
            voices: How many are kept; 0 keeps none.
            positions: Of the longest prefix; longer ones are not kept.
        """
        self._cache = cache
        self.longest = positions if voices else 0
        self._store: list[tuple[Tensor, Tensor]] = [
            (_like(layer.keys, voices, positions), _like(layer.values, voices, positions))
            for layer in cache.layers
        ]
        self._free = list(range(voices))
        self._held: OrderedDict[str, tuple[int, int]] = OrderedDict()  # voice: (place, positions)

    def __len__(self) -> int:
        return len(self._held)

    @torch.inference_mode()
    def put(self, voice: str, slot: int) -> int:
        """Copy a voice into a slot; return its positions, 0 if it is not here."""
        if voice not in self._held:
            return 0
        self._held.move_to_end(voice)
        place, count = self._held[voice]
        for layer, (keys, values) in zip(self._cache.layers, self._store, strict=True):
            layer.keys[slot, :count].copy_(keys[place, :count])
            layer.values[slot, :count].copy_(values[place, :count])
        return count

    @torch.inference_mode()
    def keep(self, voice: str, slot: int, count: int) -> None:
        """Remember the first `count` positions of a slot as this voice's; the one unused longest goes."""
        if voice in self._held or count > self.longest:
            return
        place = self._free.pop() if self._free else self._held.popitem(last=False)[1][0]
        for layer, (keys, values) in zip(self._cache.layers, self._store, strict=True):
            keys[place, :count].copy_(layer.keys[slot, :count])
            values[place, :count].copy_(layer.values[slot, :count])
        self._held[voice] = (place, count)


def _like(stored: Tensor, voices: int, positions: int) -> Tensor:
    return resident(voices, positions, *stored.shape[2:], dtype=stored.dtype, device=stored.device)
