"""CTC forced alignment: the best path of a sequence of labels through emissions, exactly and in bounded memory.

States are 0 … 2L of L labels: an even one is a blank, state 2j + 1 is label j. A frame moves a path on by 0, by 1,
or by 2, the last only onto a label that differs from the label before it. It begins in state 0 or 1 and ends in
state 2L or 2L − 1. Sums are float64: float32 leaves the best path after some minutes of audio.

Labels are computed in *columns*: column j holds label j and the blank before it, and column L the last blank. A
column depends on itself and on its left neighbour one frame before, so it can be swept tile by tile, with the
tile in the processor's nearest cache. Of the columns only those are swept that the beginning can have reached
and from which the end can still be reached. Instead of a pointer for each frame and state, the two sums of each
column are kept at some frames. From the last of them on, the way back is found with pointers for a *leaf* of
frames; frames that would be too many for a leaf are divided again in the same manner, so that memory stays
bounded for any length. What such a division costs is bounded too, since within n frames a path passes at most
n columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import InputError

Emissions = npt.NDArray[np.float32 | np.float64]
States = npt.NDArray[np.int32]
Sums = npt.NDArray[np.float64]
Frames = npt.NDArray[np.int64]

BLANK = 0
"""The class that stands for no label."""

SNAPSHOT_BYTES = 64 * 2**20
LEAF_CELLS = 2 * 2**20  # a pointer each, of one byte
_BYTES_PER_COLUMN = 16  # two float64 sums
_CELLS_PER_TURN = 10**8  # between two checkpoints; about a tenth of a second
_LEAST_TURN = 64
_SWEPT = 0.95  # the share of the work that is done when the way back begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The best path.

    Attributes:
        states: [F], rising: the state of each frame; an even one is a blank, an odd one label (s − 1) / 2.
        score: The sum of its log-probabilities.
    """

    states: States
    score: float


def frames_needed(labels: npt.ArrayLike) -> int:
    """The fewest frames that can hold the labels: one each, and a blank between two equal ones."""
    labels = np.asarray(labels)
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))


def best_path(
    emissions: Emissions,
    labels: npt.ArrayLike,
    checkpoint: Callable[[float], None] = lambda share: None,
    *,
    leaf_cells: int = LEAF_CELLS,
    snapshot_bytes: int = SNAPSHOT_BYTES,
) -> Path:
    """Find the path of the highest sum. The loops hold no lock of the interpreter.

    Ties: a path moves by 2 only if that is better than by 1 and by 0, else by 1 if that is better than
    by 2 and by 0, else not at all, and it ends in the last blank only if that is better than the last
    label. So where moving by 1 and by 2 are *exactly* equal, and better than staying, it stays: a quirk
    that the usual implementations share, and the one case in which there may be a better path.

    Args:
        emissions: [F, V], log-probabilities of V classes, finite or −inf; class 0 is the blank.
        labels: [L], classes 1 … V; V is the star, which matches any frame with a log-probability of 0.
        checkpoint: Called with the share done, at least twice a second.
        leaf_cells: The most cells for which pointers are held at once.
        snapshot_bytes: About how much memory the kept sums of one division may take.

    Raises:
        InputError: There are too few frames for the labels; the message has the numbers.
        ValueError: A label is no class, or is the blank.
    """
    emissions = np.ascontiguousarray(emissions)
    wanted = np.asarray(labels, np.int64)
    frames, classes = emissions.shape
    if wanted.size and not 1 <= int(wanted.min()) <= int(wanted.max()) <= classes:
        raise ValueError(f"labels are classes from 1 to {classes}")
    needed = frames_needed(wanted)
    if frames < needed:
        raise InputError(
            f"{frames} frames cannot hold {len(wanted)} labels, of which {needed - len(wanted)} repeat the one "
            f"before them: {needed} frames are needed"
        )
    search = _Search(emissions, wanted, checkpoint, max(4, leaf_cells), snapshot_bytes)
    return search.run()


def compile_loops() -> None:
    """Compile the loops, or read them from the cache of an earlier process, for float32 emissions.

    Raises:
        ImportError: There is no numba, which this module needs only here and in `best_path`.
    """
    emissions = np.zeros((2 * _LEAST_TURN, 3), np.float32)
    best_path(emissions, [1, 2, 2, 3], leaf_cells=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """The sums before a frame, of the columns that matter.

    Attributes:
        first: The column of the first sums.
        blanks: Of each column, its blank's.
        letters: Of each column, its label's; −inf where it is not reached.
    """

    frame: int
    first: int
    blanks: Sums
    letters: Sums

    def cut(self, first: int, last: int) -> tuple[Sums, Sums]:
        """The sums of the columns from `first` to `last`, as `advance` takes them."""
        blanks, letters = _unreached(last + 1 - first)
        begin, end = max(first, self.first), min(last + 1, self.first + len(self.blanks))
        blanks[begin - first : end - first] = self.blanks[begin - self.first : end - self.first]
        letters[begin - first + 1 : end - first + 1] = self.letters[begin - self.first : end - self.first]
        return blanks, letters


class _Search:
    """One search.

    Attributes:
        enter: [L + 1], the first frame at which a column can be reached: its blank, or its label.
        leave: [L + 1], the last frame at which its label can still reach the end.
    """

    def __init__(
        self,
        emissions: Emissions,
        labels: Frames,
        checkpoint: Callable[[float], None],
        leaf_cells: int,
        snapshot_bytes: int,
    ) -> None:
        self._emissions = emissions
        self._checkpoint = checkpoint
        self._leaf_cells = leaf_cells
        self._snapshot_bytes = snapshot_bytes
        frames, count = len(emissions), len(labels)
        self._labels = np.append(labels, 0).astype(
            np.min_scalar_type(emissions.shape[1])
        )  # the last column's label leads nowhere
        repeated = np.zeros(count + 1, np.int64)
        repeated[1:count] = labels[1:] == labels[:-1]
        # −inf where a label cannot follow the label before it at once: added to its sum, it needs no branch.
        self._gate = np.where(repeated == 1, -np.inf, 0.0)
        until = np.cumsum(repeated)  # repetitions up to each column
        self.enter: Frames = np.arange(count + 1) + until - repeated
        self.leave: Frames = frames - 1 - (np.arange(count - 1, -2, -1) + until[-1] - until)
        self.leave[count] = frames - 1
        self._states = np.empty(frames, np.int32)
        self._share = 0.0

    def run(self) -> Path:
        frames, columns = len(self._emissions), len(self._labels)
        blanks, letters = _unreached(columns)
        blanks[0] = 0.0  # before the first frame a path stands in the first blank, at no cost
        if self._is_leaf(frames, columns):
            pointers = self._pointers(0, frames, 0, blanks, letters, self.leave)
            score, state = _end(blanks, letters)
            self._trace(pointers, 0, frames, 0, state)
        else:
            snapshots = self._sweep(0, frames, 0, blanks, letters, self.leave)
            score, state = _end(blanks, letters)
            self._walk(snapshots, frames, state)
        self._checkpoint(1.0)
        return Path(states=self._states, score=score)

    def _is_leaf(self, frames: int, columns: int) -> bool:
        return frames * min(columns, frames + 1) <= self._leaf_cells

    def _sweep(
        self, begin: int, end: int, first: int, blanks: Sums, letters: Sums, leave: Frames
    ) -> list[_Snapshot]:
        """Bring the sums from before frame `begin` to `end`; return those that were kept on the way."""
        from .trellis_loops import advance

        columns = slice(first, first + len(blanks))
        top = begin == 0 and end == len(self._emissions)
        turn = max(_LEAST_TURN, _CELLS_PER_TURN // len(blanks))
        borders = np.empty((2, min(turn, end - begin)))
        snapshots: list[_Snapshot] = []
        for start, stop in _parts(begin, end, self._step(end - begin, len(blanks))):
            snapshots.append(self._snapshot(start, first, blanks, letters, leave))
            for frame, until in _parts(start, stop, turn):
                if top:
                    self._share = _SWEPT * frame / end
                self._checkpoint(self._share)
                advance(
                    self._emissions,
                    self._labels[columns],
                    self._gate[columns],
                    self.enter[columns],
                    leave,
                    blanks,
                    letters,
                    frame,
                    until,
                    borders,
                )
        return snapshots

    def _step(self, frames: int, columns: int) -> int:
        """How many frames lie between two snapshots: those of a leaf, or more where memory is short."""
        leaf = max(self._leaf_cells // columns, math.isqrt(self._leaf_cells) - 1)
        least = math.ceil(frames * _BYTES_PER_COLUMN * columns / self._snapshot_bytes)
        return max(1, min(max(leaf, least), (frames + 1) // 2))

    def _snapshot(self, frame: int, first: int, blanks: Sums, letters: Sums, leave: Frames) -> _Snapshot:
        begin = int(np.searchsorted(leave, frame - 1))
        end = int(np.searchsorted(self.enter[first : first + len(blanks)], frame - 1, side="right"))
        end = max(end, begin + 1)
        return _Snapshot(
            frame=frame,
            first=first + begin,
            blanks=blanks[begin:end].copy(),
            letters=letters[begin + 1 : end + 1].copy(),
        )

    def _walk(self, snapshots: list[_Snapshot], end: int, state: int) -> int:
        """Find the states from the first snapshot up to `end`; return the state before them.

        Args:
            end: `state` is the state of the frame before it.
        """
        while snapshots:
            snapshot = snapshots.pop()  # and with it its memory
            state = self._block(snapshot, end, state)
            end = snapshot.frame
            self._share = 1 - (1 - _SWEPT) * end / len(self._states)
            self._checkpoint(self._share)
        return state

    def _block(self, snapshot: _Snapshot, end: int, state: int) -> int:
        """Find the states of the frames between a snapshot and `end`; return the state before them.

        Only columns matter from which `state` can be reached in these frames.
        """
        begin, last = snapshot.frame, state // 2
        first = max(last - (end - begin), snapshot.first)
        blanks, letters = snapshot.cut(first, last)
        reaching = np.arange(first, last + 1) + (end - 1 - last)
        leave = np.minimum(self.leave[first : last + 1], reaching)
        if self._is_leaf(end - begin, len(blanks)):
            pointers = self._pointers(begin, end, first, blanks, letters, leave)
            return self._trace(pointers, begin, end, first, state)
        return self._walk(self._sweep(begin, end, first, blanks, letters, leave), end, state)

    def _pointers(
        self, begin: int, end: int, first: int, blanks: Sums, letters: Sums, leave: Frames
    ) -> npt.NDArray[np.uint8]:
        """Bring the sums from before frame `begin` to `end`; return where each of them came from."""
        from .trellis_loops import advance_with_pointers

        columns = slice(first, first + len(blanks))
        pointers = np.empty((end - begin, len(blanks)), np.uint8)
        advance_with_pointers(
            self._emissions,
            self._labels[columns],
            self._gate[columns],
            self.enter[columns],
            leave,
            blanks,
            letters,
            begin,
            pointers,
        )
        return pointers

    def _trace(self, pointers: npt.NDArray[np.uint8], begin: int, end: int, first: int, state: int) -> int:
        from .trellis_loops import trace_back

        return int(trace_back(pointers, first, state, self._states[begin:end]))


def _unreached(columns: int) -> tuple[Sums, Sums]:
    """Sums of columns that nothing has reached; label j's is at j + 1, behind a border that stays −inf."""
    return np.full(columns, -np.inf), np.full(columns + 1, -np.inf)


def _end(blanks: Sums, letters: Sums) -> tuple[float, int]:
    """The best sum at the end, and its state."""
    last = len(blanks) - 1
    if last == 0 or blanks[last] > letters[last]:
        return float(blanks[last]), 2 * last
    return float(letters[last]), 2 * last - 1


def _parts(begin: int, end: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, end)) for start in range(begin, end, size)]
