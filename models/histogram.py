"""A histogram in plain numbers: cheap to add to, for figures that are taken once per step of an engine."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How often values fell between fixed bounds. One thread adds; any may read.

    Attributes:
        bounds: The upper bounds, ascending; a value at a bound counts below it.
        counts: How many fell into each interval; the last is what lies above all bounds.
        total: The sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
