"""The times at which the flow is solved."""

from __future__ import annotations

import math

_DENSE_START = {
    5: (0, 2, 4, 8, 16, 32),
    6: (0, 2, 4, 6, 8, 16, 32),
    7: (0, 2, 4, 6, 8, 16, 24, 32),
    10: (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32),
    12: (0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32),
}
"""Steps of 1/32 that are finer where the flow bends most ("empirically pruned step sampling", F5-TTS)."""

MAX_STEPS = 64


def raw_times(steps: int) -> tuple[float, ...]:
    """The grid before the sway: `steps` + 1 times from 0 (noise) to 1 (data)."""
    if steps in _DENSE_START:
        return tuple(count / 32 for count in _DENSE_START[steps])
    return tuple(index / steps for index in range(steps + 1))


def times(steps: int) -> tuple[float, ...]:
    """The grid of the solver: t becomes 1 − cos(πt/2), sway sampling with coefficient −1."""
    return tuple(1 - math.cos(math.pi * t / 2) for t in raw_times(steps))
