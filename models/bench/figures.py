"""Figures of several runs. No torch here: the benchmarks of the queue have the same."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

Spread = dict[str, float]
"""`median`, `least` and `most` of several runs."""

_DIGITS = 5  # of a figure that are kept: none is known better


def spread(values: Sequence[float]) -> Spread:
    """The median, and how far the runs were apart."""
    return {
        "median": significant(statistics.median(values)),
        "least": significant(min(values)),
        "most": significant(max(values)),
    }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times as much is ours, run by run: what else the machine did met both sides."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


def in_turns(sides: Sequence[str], rounds: int) -> Iterator[str]:
    """Every side once in each round, each round beginning with another."""
    for number in range(rounds):
        first = number % len(sides)
        yield from (*sides[first:], *sides[:first])


def significant(value: float) -> float:
    """A figure without the digits that mean nothing."""
    return float(f"{value:.{_DIGITS}g}")
