"""Random numbers that depend on the job's seed, the step and the codebook, and on nothing else.

They come from Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", 2011), computed on the host, so that every kind of card sees the same bits. A row's numbers
are uploaded in blocks of steps and gathered on the card by the row's own step counter: they are the
same whatever else is in the batch, in which slot it sits and when it joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .ports import Row
from .resident import resident, resized

BLOCK_STEPS = 64

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Source = Callable[[int, int, int, int], Floats]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))  # the golden ratio and √3 − 1
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

_UNIFORM_BITS = 23
"""With 24 the product of the largest uniform and a sum could round to the sum itself."""


def philox(counter: Sequence[npt.NDArray[Any]], key: int) -> tuple[Words, Words, Words, Words]:
    """Philox 4x32-10 of many counters at once.

    Args:
        counter: Four arrays of 32-bit words that broadcast together, the lowest word first.
        key: 64 bits.
    """
    a, b, c, d = (np.asarray(word, dtype=np.uint64) for word in counter)
    low, high = np.uint64(key) & _LOW, np.uint64(key) >> _HALF
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (right >> _HALF) ^ b ^ low, right & _LOW, (left >> _HALF) ^ d ^ high, left & _LOW
        low, high = (low + _WEYL[0]) & _LOW, (high + _WEYL[1]) & _LOW
    first, second, third, fourth = (word.astype(np.uint32) for word in np.broadcast_arrays(a, b, c, d))
    return first, second, third, fourth


def uniforms(seed: int, first: int, steps: int, width: int) -> Floats:
    """One uniform number for each step and codebook.

    Args:
        seed: The job's, of 64 bits.
        first: The first step.
        steps: How many steps.
        width: Codebooks, or whatever is drawn in a step.

    Returns:
        `[steps, width]`, multiples of 2^-23 in [0, 1).
    """
    words, *_ = philox(_counter(first, steps, width, stream=0), _key(seed))
    return (words >> np.uint32(32 - _UNIFORM_BITS)).astype(np.float32) * np.float32(2.0**-_UNIFORM_BITS)


def normals(seed: int, first: int, steps: int, width: int) -> Floats:
    """Standard normal numbers for each step, `[steps, width]`; the arguments are those of `uniforms`.

    Box and Muller's transform in double precision: what libraries of mathematics differ by is gone
    after the rounding to single precision.
    """
    words = philox(_counter(first, steps, -(-width // 4), stream=1), _key(seed))
    found = np.empty((steps, words[0].shape[1], 4))
    for place, (size, turn) in enumerate((words[:2], words[2:])):
        radius = np.sqrt(-2.0 * np.log((size + 1.0) * 2.0**-32))  # the logarithm of (0, 1]
        angle = turn * (2.0**-31 * np.pi)
        found[:, :, 2 * place] = radius * np.cos(angle)
        found[:, :, 2 * place + 1] = radius * np.sin(angle)
    return found.reshape(steps, -1)[:, :width].astype(np.float32)


def _counter(first: int, steps: int, width: int, *, stream: int) -> tuple[npt.NDArray[Any], ...]:
    step = np.arange(first, first + steps, dtype=np.uint64)[:, None]
    zero = np.zeros((1, 1), dtype=np.uint64)
    return np.arange(width, dtype=np.uint64)[None, :], step, zero + np.uint64(stream), zero


def _key(seed: int) -> int:
    return seed & 0xFFFF_FFFF_FFFF_FFFF


class Draws:
    """The numbers of each slot's row for the steps to come, on the card.

    In a step: `refill(rows)` on the host before the launch; `take(bucket)` among the launched work, and
    `advance(bucket)` at its very end, so that a step that fails has not advanced.
    """

    def __init__(
        self,
        *,
        width: int,
        device: torch.device | str,
        source: Source = uniforms,
        block: int = BLOCK_STEPS,
    ) -> None:
        """Describe the numbers; `reserve` takes the memory.

        Args:
            width: How many a step of one row takes.
            device: Where they are taken.
            source: `uniforms` or `normals`.
            block: For how many steps they are made and uploaded at once.
        """
        self._source = source
        self._steps, self._width = block, width
        self._seeds: list[int] = []
        self._block = resident(0, block, width, dtype=torch.float32, device=device)
        self._counters = resident(0, dtype=torch.int64, device=device)
        self._numbers = torch.arange(0, device=device)

    @property
    def bytes_per_slot(self) -> int:
        """What one slot costs."""
        return 4 * self._steps * self._width + 8

    def reserve(self, slots: int) -> None:
        """Have memory for `slots` slots; those below that number keep theirs."""
        self._block = resized(self._block, slots)
        self._counters = resized(self._counters, slots)
        self._numbers = torch.arange(slots, device=self._counters.device)
        self._seeds = (self._seeds + [0] * slots)[:slots]

    def seat(self, slot: int, seed: int) -> None:
        """A row of this seed begins in the slot."""
        self._seeds[slot] = seed

    def refill(self, rows: Sequence[Row[Any]]) -> None:
        """Upload the next block of the rows that are about to begin one.

        That also sets their counters: steps of others have counted a slot whose prompt was not done.
        """
        for row in rows:
            if row.steps % self._steps == 0:
                block = self._source(self._seeds[row.slot], row.steps, self._steps, self._width)
                self._block[row.slot].copy_(torch.from_numpy(block), non_blocking=True)
                self._counters[row.slot] = row.steps

    def take(self, bucket: int) -> Tensor:
        """The numbers of this step `[bucket, width]`."""
        return self._block[self._numbers[:bucket], self._counters[:bucket] % self._steps]

    def advance(self, bucket: int) -> None:
        """The step is done: `take` gives the numbers of the next one."""
        self._counters[:bucket].add_(1)

    def move(self, source: int, target: int) -> None:
        """A row goes to another slot."""
        self._seeds[target] = self._seeds[source]
        self._block[target].copy_(self._block[source])
        self._counters[target].copy_(self._counters[source])

    def clear(self, slot: int) -> None:
        """Leave nothing of the slot's row behind."""
        self._seeds[slot] = 0
        self._block[slot].zero_()
        self._counters[slot] = 0
