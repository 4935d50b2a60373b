"""Other ways to find the path that `soundmill.models.trellis` finds, by the same rules, for comparison.

Both hold a pointer for each frame and state. They are written as one would write them, not to lose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]


def by_rows(emissions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Plain numpy: a row of states at a time, pointers of a byte each."""
    frames, states = len(emissions), 2 * len(labels) + 1
    classes = np.zeros(states, np.int64)
    classes[1::2] = labels
    leaps = np.zeros(states, bool)
    leaps[3::2] = labels[1:] != labels[:-1]
    pointers = np.zeros((frames, states), np.int8)
    sums = np.full(states, -np.inf)
    sums[:2] = emissions[0, classes[:2]]
    one, two = np.full(states, -np.inf), np.full(states, -np.inf)
    for frame in range(1, frames):
        one[1:] = sums[:-1]
        two[2:] = np.where(leaps[2:], sums[:-2], -np.inf)
        by_two = (two > one) & (two > sums)
        by_one = (one > sums) & (one > two)
        pointers[frame] = np.where(by_two, 2, by_one)
        sums = np.where(by_two, two, np.where(by_one, one, sums)) + emissions[frame, classes]
    path = np.empty(frames, np.int64)
    path[-1] = states - 1 if sums[-1] > sums[-2] else states - 2
    for frame in range(frames - 1, 0, -1):
        path[frame - 1] = path[frame] - pointers[frame, path[frame]]
    return path


@njit(nogil=True, cache=True)
def full_matrix(emissions: Any, labels: Any) -> Any:
    """Compiled: a cell at a time, pointers of two bits each, unreachable states skipped."""
    frames, states = emissions.shape[0], 2 * len(labels) + 1
    pointers = np.zeros((frames, (states + 3) // 4), np.uint8)
    sums, following = np.full(states, -np.inf), np.full(states, -np.inf)
    sums[0] = emissions[0, 0]
    sums[1] = emissions[0, labels[0]]
    for frame in range(1, frames):
        first = max(0, states - 2 * (frames - frame))
        beyond = min(states, 2 * frame + 2)
        for state in range(first, beyond):
            label = labels[state // 2] if state % 2 else 0
            stay = sums[state]
            one = sums[state - 1] if state > 0 else -np.inf
            two = -np.inf
            if state % 2 == 1 and state > 1 and labels[state // 2] != labels[state // 2 - 1]:
                two = sums[state - 2]
            if two > one and two > stay:
                best, move = two, 2
            elif one > stay and one > two:
                best, move = one, 1
            else:
                best, move = stay, 0
            following[state] = best + emissions[frame, label]
            pointers[frame, state // 4] |= move << (2 * (state % 4))
        sums, following = following, sums
    path = np.empty(frames, np.int64)
    path[-1] = states - 1 if sums[states - 1] > sums[states - 2] else states - 2
    for frame in range(frames - 1, 0, -1):
        state = path[frame]
        path[frame - 1] = state - ((pointers[frame, state // 4] >> (2 * (state % 4))) & 3)
    return path
