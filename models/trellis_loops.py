"""The compiled loops of the trellis; `trellis` says what they compute.

They take the columns of a part of the trellis: their labels, gates, first and last frames, and the sums, where
`letters[j + 1]` belongs to label j and `letters[0]` stays −inf. Sums of columns that are already left hold what
they last held: no column that can still reach the end reads them.

The innermost loops are functions of their own without branches: only so do they become vector instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_TILE = 512  # columns; their sums and emissions fit into the first cache


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, and keep the code on disk where numba finds a writable folder.

    It looks into `NUMBA_CACHE_DIR`, beside the source, and in the user's cache folder. Root's installation, run
    by a user without a home, has none of them: then each process compiles for itself.
    """
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba's "no locator available"
        return njit(nogil=True, error_model="numpy")(function)


@compiled
def advance(
    emissions: Any,
    labels: Any,
    gate: Any,
    enter: Any,
    leave: Any,
    blanks: Any,
    letters: Any,
    begin: int,
    end: int,
    borders: Any,
) -> None:
    """Bring the sums from before frame `begin` to before frame `end`.

    Args:
        borders: [2, end − begin or more] of float64, to work in.
    """
    row = np.empty(emissions.shape[1] + 1)
    heard_room = np.empty(_TILE)
    room = np.empty((4, _TILE + 1))
    left, right = borders[0], borders[1]
    left[:] = -np.inf
    for first in range(0, len(blanks), _TILE):
        beyond = min(first + _TILE, len(blanks))
        size = beyond - first
        old_blanks, new_blanks, heard = room[0, :size], room[1, :size], heard_room[:size]
        old_letters, new_letters = room[2, : size + 1], room[3, : size + 1]
        old_blanks[:] = blanks[first:beyond]
        old_letters[1:] = letters[first + 1 : beyond + 1]
        right[:] = old_letters[size]
        start, stop = max(begin, enter[first]), min(end, leave[beyond - 1] + 1)
        for frame in range(start, stop):
            _read_row(emissions[frame], row)
            _hear(row, labels[first:beyond], heard)
            old_letters[0] = left[frame - begin]
            right[frame - begin] = old_letters[size]
            _move(old_blanks, old_letters, gate[first:beyond], heard, row[0], new_blanks, new_letters)
            old_blanks, new_blanks = new_blanks, old_blanks
            old_letters, new_letters = new_letters, old_letters
        for frame in range(max(start, stop), end):
            right[frame - begin] = old_letters[size]
        blanks[first:beyond] = old_blanks
        letters[first + 1 : beyond + 1] = old_letters[1:]
        left, right = right, left


@compiled
def advance_with_pointers(
    emissions: Any,
    labels: Any,
    gate: Any,
    enter: Any,
    leave: Any,
    blanks: Any,
    letters: Any,
    begin: int,
    pointers: Any,
) -> None:
    """As `advance`, over as many frames as `pointers` has, writing where the sums came from.

    Args:
        pointers: [F, columns] of uint8: bit 0 of the blank, and above it 0, 1 or 2 of the label, are by how many
            states the best path moved.
    """
    columns = len(blanks)
    row, heard = np.empty(emissions.shape[1] + 1), np.empty(columns)
    old_blanks, new_blanks = blanks.copy(), blanks.copy()
    old_letters, new_letters = letters.copy(), letters.copy()
    first, beyond = 0, 0
    for index in range(len(pointers)):
        frame = begin + index
        while first < columns - 1 and leave[first] < frame:
            first += 1
        while beyond < columns and enter[beyond] <= frame:
            beyond += 1
        _read_row(emissions[frame], row)
        _hear(row, labels[first:beyond], heard)
        _point(
            old_blanks[first:beyond],
            old_letters[first : beyond + 1],
            gate[first:beyond],
            pointers[index, first:beyond],
        )
        _move(
            old_blanks[first:beyond],
            old_letters[first : beyond + 1],
            gate[first:beyond],
            heard,
            row[0],
            new_blanks[first:beyond],
            new_letters[first : beyond + 1],
        )
        old_blanks, new_blanks = new_blanks, old_blanks
        old_letters, new_letters = new_letters, old_letters
    blanks[:] = old_blanks
    letters[:] = old_letters


@compiled
def trace_back(pointers: Any, first: int, state: Any, states: Any) -> Any:
    """Follow the pointers back from `state` at the last frame into `states`; return the state before the first.

    Args:
        first: The column of the first pointers.
    """
    for index in range(len(pointers) - 1, -1, -1):
        states[index] = state
        pointer = np.int64(pointers[index, state // 2 - first])
        state -= pointer >> 1 if state % 2 else pointer & 1
    return state


@compiled
def _read_row(emissions: Any, row: Any) -> None:
    for label in range(len(emissions)):
        row[label] = emissions[label]
    row[len(emissions)] = 0.0  # the star


@compiled
def _hear(row: Any, labels: Any, heard: Any) -> None:
    for j in range(len(labels)):
        heard[j] = row[labels[j]]


@compiled
def _move(
    blanks: Any, letters: Any, gate: Any, heard: Any, blank: float, new_blanks: Any, new_letters: Any
) -> None:
    """One frame; the border of `new_letters` is not written."""
    for j in range(len(gate)):
        one, two, stay = blanks[j], letters[j], letters[j + 1]
        new_blanks[j] = (two if two > one else one) + blank
        gated = two + gate[j]
        move = gated if gated > one else one
        moves = (move > stay) & (one != gated)
        new_letters[j + 1] = (move if moves else stay) + heard[j]


@compiled
def _point(blanks: Any, letters: Any, gate: Any, pointers: Any) -> None:
    for j in range(len(gate)):
        one, two, stay = blanks[j], letters[j], letters[j + 1]
        gated = two + gate[j]
        moves = ((gated > stay) | (one > stay)) & (one != gated)
        label = (4 if gated > one else 2) if moves else 0
        pointers[j] = label | (1 if two > one else 0)
