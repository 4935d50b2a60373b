"""Who sits where and whose turn it is: no tensors, no clock, no threads."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from typing import Generic, TypeVar

R = TypeVar("R")

PREFILL_TOKENS = 1024
"""The most positions of prompts in one turn: what waits for it are the rows that run."""


def bucket_sizes(slots: int) -> tuple[int, ...]:
    """The numbers of slots that a step may take: at most half as many again as are needed, and few.

    Up to 384 slots there are at most 16 of them, which is how many graphs a model may have on an NPU.

    >>> bucket_sizes(64)
    (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    """
    sizes = {1, 2, slots}
    size = 4
    while size < slots:
        sizes |= {size, size + size // 2}
        size *= 2
    return tuple(sorted(number for number in sizes if number <= slots))


def bucket_for(occupied: int, slots: int) -> int:
    """The smallest size that takes the first `occupied` slots."""
    return next(size for size in bucket_sizes(slots) if size >= occupied)


def pack(lengths: Sequence[int], budget: int) -> list[int]:
    """Choose what is run together, padded to the longest, within `budget` positions.

    The first always is: it has waited longest, and runs in parts if it is too long. Then come those
    whose length is nearest to it, so that little is padding.

    Args:
        lengths: What each still has to run, at least 1.
        budget: The most positions, padding included.

    Returns:
        The indices of the chosen, in their order.
    """
    first = min(lengths[0], budget)
    chosen, longest = [0], first

    def distance(index: int) -> tuple[int, bool]:
        return abs(lengths[index] - first), lengths[index] > first

    for index in sorted(range(1, len(lengths)), key=distance):
        longest_then = max(longest, lengths[index])
        if (len(chosen) + 1) * longest_then <= budget:
            chosen.append(index)
            longest = longest_then
    return sorted(chosen)


class SlotTable(Generic[R]):
    """The slots of one model: a newcomer gets the lowest free one, so that few of them run."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._rows: dict[int, R] = {}
        self._free = list(range(slots))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[R]:
        """Those who sit, those who have sat longest first."""
        return list(self._rows.values())

    @property
    def full(self) -> bool:
        """Whether nobody else can sit."""
        return not self._free

    @property
    def bucket(self) -> int:
        """How many slots a step has to take; 0 if nobody sits."""
        return bucket_for(max(self._rows) + 1, self.slots) if self._rows else 0

    def seat(self, row: R) -> int:
        """Give the lowest free slot."""
        slot = heapq.heappop(self._free)
        self._rows[slot] = row
        return slot

    def leave(self, slot: int) -> R:
        """Take the slot back."""
        heapq.heappush(self._free, slot)
        return self._rows.pop(slot)

    def gap(self) -> tuple[int, int] | None:
        """The move that closes up, when less than half of the bucket is taken: the last row, the lowest slot."""
        if 2 * len(self._rows) >= self.bucket:
            return None
        return max(self._rows), self._free[0]

    def move(self, source: int, target: int) -> None:
        """Let the row of one slot sit in another, free one; its age stays."""
        self._free.remove(target)
        self._free.append(source)
        heapq.heapify(self._free)
        self._rows = {target if slot == source else slot: row for slot, row in self._rows.items()}

    def beyond(self, slots: int) -> list[tuple[int, int | None]]:
        """Who has to rise when only the first `slots` stay: where they sit, and where there is room for them."""
        rising = [slot for slot in self._rows if slot >= slots]
        room = sorted(slot for slot in self._free if slot < slots)
        return [(slot, room[n] if n < len(room) else None) for n, slot in enumerate(rising)]

    def shrink(self, slots: int) -> None:
        """Keep the first `slots`, beyond which nobody sits any more."""
        assert all(slot < slots for slot in self._rows), "a row sits beyond the last slot"
        self.slots = slots
        self._free = [slot for slot in range(slots) if slot not in self._rows]


class Turns:
    """Whose turn it is among the models of a card: who has used the least of its time.

    A model that had nothing to do has no claim to the time that it missed: when it comes back it
    stands where the least used of the others does.
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._active: frozenset[str] = frozenset()
        self._reached = 0.0

    def next(self, ready: Collection[str]) -> str | None:
        """Choose among those that have something to do."""
        if not ready:
            self._active = frozenset()
            return None
        here = [self._used[name] for name in ready if name in self._active]
        floor = min(here) if here else self._reached
        for name in ready:
            if name not in self._active:
                self._used[name] = max(self._used.get(name, 0.0), floor)
        self._active = frozenset(ready)
        chosen = min(ready, key=self._used.__getitem__)
        self._reached = max(self._reached, self._used[chosen])
        return chosen

    def charge(self, name: str, seconds: float) -> None:
        """It used so much of the device; negative to correct an estimate."""
        self._used[name] = self._used.get(name, 0.0) + seconds
