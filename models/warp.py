"""The path of a recording through a reference that consists of words: time warping with optional pauses.

The reference is a chain of states: pause, frames of the first word, pause, frames of the second word, …,
pause. Every frame of the recording sits in exactly one state; from frame to frame the path stays, goes on,
or skips a little. A recording may pause between any two words, or not at all: to pass over a pause costs
nothing, nor to enter one where the reference pauses too, and to enter any other a little.

The search looks at a moving window of `WINDOW` states and keeps only every `BLOCK`-th row of scores; the
rows between are computed again on the way back, for the few states from which the path can have come.
Memory is F/BLOCK · WINDOW numbers, whatever the length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .features import Matrix

BLOCK = 256
WINDOW = 16384  # states: at 100 frames a second, two and a half minutes
NEAR = 2048  # states around a path that is known roughly: ten seconds on either side
MIN_WORD_FRAMES = 3  # the longest skip passes over two: no word is lost on the way

# Measured on eSpeak's voices at ×0.75 to ×1.3 with and without noise and pauses; all three are uncritical.
_STAY, _SKIP_ONE, _SKIP_TWO = 0.10, 0.10, 0.30
# For a pause that the reference does not make; as much as four frames that do not fit at all. So the closure of
# a stop is not taken for a pause between words, nor a breath for the first word, with a pause behind it.
_ENTER_PAUSE = 4.0
_MAX_JUMP = 3

States = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The states of a reference.

    Attributes:
        word: [N] the word of each state, -1 for a pause.
        frame: [N] which frame of the reference each state is; any for a pause.
        own_pause: [N] whether a state is a pause that the reference makes itself.
    """

    word: npt.NDArray[np.int32]
    frame: npt.NDArray[np.intp]
    own_pause: npt.NDArray[np.bool_]


def chain(words: Sequence[range]) -> Chain:
    """Put a pause before, between and behind the words, each at least one frame of the reference."""
    owners, frames, own_pause = [-1], [0], [True]
    following = [*(word.start for word in words[1:]), math.inf]
    for index, (word, next_frame) in enumerate(zip(words, following, strict=True)):
        count = max(len(word), MIN_WORD_FRAMES)
        owners += [index] * count + [-1]
        frames += [*np.linspace(word[0], word[-1], count).round().astype(int).tolist(), 0]
        own_pause += [False] * count + [next_frame > word.stop]
    return Chain(
        word=np.array(owners, np.int32), frame=np.array(frames, np.intp), own_pause=np.array(own_pause)
    )


def best_path(
    recording: Matrix,
    pause_cost: npt.NDArray[np.float32],
    reference: Matrix,
    states: Chain,
    checkpoint: Callable[[float], None],
    *,
    near: States | None = None,
) -> tuple[States, npt.NDArray[np.float32]] | None:
    """Find the cheapest path.

    Args:
        recording: [F, D], unit rows; a frame in a word's state costs one minus the cosine.
        pause_cost: [F] what a frame costs in a pause.
        reference: [R, D], unit rows, which `states` puts in a chain.
        checkpoint: Called at least every `BLOCK` frames with the share that is done.
        near: [F] a path of the same recording and chain. Only its neighbourhood is searched, which is
            several times quicker.

    Returns:
        The state of each frame [F] and what it costs there [F]; `None` if the recording is too short to
        pass through the whole reference.
    """
    search = _Search(recording, pause_cost, reference, states, near)
    for block in range(search.blocks):
        search.forward(block)
        checkpoint(0.5 * (block + 1) / search.blocks)
    state = search.last_state()
    if state is None:
        return None
    path = np.empty(len(recording), np.intp)
    costs = np.empty(len(recording), np.float32)
    for block in reversed(range(search.blocks)):
        state = search.backward(block, state, path, costs)
        checkpoint(1 - 0.5 * block / search.blocks)
    return path, costs


class _Search:
    def __init__(
        self,
        recording: Matrix,
        pause_cost: npt.NDArray[np.float32],
        reference: Matrix,
        states: Chain,
        near: States | None,
    ) -> None:
        self.recording = recording
        self.pause_cost = pause_cost
        self.reference = reference[states.frame]  # [N, D]
        self.blocks = -(-len(recording) // BLOCK)
        self.near = near
        self.width = min(WINDOW if near is None else NEAR, len(states.word))
        self.is_pause = states.word < 0
        self.penalties = _penalties(self.is_pause, states.own_pause)
        # The scores with which each block begins, and the first state of its window.
        self.entries: list[npt.NDArray[np.float32]] = [_first_scores(self.width)]
        self.offsets = [0]

    def forward(self, block: int) -> None:
        """Score one block and place the window of the next, around its best state or the known path."""
        offset = self.offsets[block]
        scores, _, _ = self._score(block, offset, self.entries[block], keep=False)
        if self.near is None:
            centre = offset + int(np.argmin(scores))
        else:
            centre = int(self.near[min((block + 1) * BLOCK, len(self.near) - 1)])
        last = len(self.is_pause) - self.width
        following = min(max(centre - self.width // 2, offset), last)
        moved = np.full(self.width, np.inf, np.float32)
        kept = scores[following - offset :]
        moved[: len(kept)] = kept
        self.entries.append(moved)
        self.offsets.append(following)

    def last_state(self) -> int | None:
        """The cheaper of the two states in which a path may end: the last pause, or the frame before."""
        scores, offset = self.entries[-1], self.offsets[-1]
        ends = [state - offset for state in (len(self.is_pause) - 1, len(self.is_pause) - 2)]
        best = min(ends, key=lambda state: scores[state] if state < len(scores) else np.inf)
        return best + offset if best < len(scores) and np.isfinite(scores[best]) else None

    def backward(self, block: int, state: int, path: States, costs: npt.NDArray[np.float32]) -> int:
        """Follow the path from the state after which `block` ended to the one before it began."""
        offset, start = self.offsets[block], block * BLOCK
        first = max(offset, state - _MAX_JUMP * BLOCK)  # from below it nothing reaches `state` in a block
        entry = self.entries[block][first - offset : state - offset + 1]
        _, jumps, local = self._score(block, first, entry, keep=True)
        for row in reversed(range(len(jumps))):
            path[start + row] = state
            costs[start + row] = local[row, state - first]
            state -= int(jumps[row, state - first])
        return state

    def _score(
        self, block: int, first: int, scores: npt.NDArray[np.float32], *, keep: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], Matrix]:
        """Run the rows of one block over the states from `first` on.

        Args:
            scores: [w] of these states before the block.
            keep: Whether the jumps are wanted.

        Returns:
            The scores behind the block [w], the jump by which each state was reached [f, w], and what each
            state costs by itself [f, w].
        """
        width = len(scores)
        window = slice(first, first + width)
        rows = slice(block * BLOCK, min((block + 1) * BLOCK, len(self.recording)))
        local = 1 - self.recording[rows] @ self.reference[window].T
        local[:, self.is_pause[window]] = self.pause_cost[rows, None]
        penalties = self.penalties[:, window]
        jumps = np.zeros(local.shape if keep else (0, 0), np.uint8)
        choices = np.full((_MAX_JUMP + 1, width), np.inf, np.float32)
        for row, cost in enumerate(local):
            for jump in range(min(_MAX_JUMP + 1, width)):
                np.add(scores[: width - jump], penalties[jump, jump:], out=choices[jump, jump:])
            if keep:
                jumps[row] = choices.argmin(axis=0)
            scores = choices.min(axis=0)
            scores += cost
        return scores, jumps, local


def _first_scores(width: int) -> npt.NDArray[np.float32]:
    """As if a frame before the first had sat in the first pause."""
    scores = np.full(width, np.inf, np.float32)
    scores[0] = 0
    return scores


def _penalties(is_pause: npt.NDArray[np.bool_], own_pause: npt.NDArray[np.bool_]) -> Matrix:
    """What it costs to reach each state by a jump of 0, 1, 2 or 3: [4, N]."""
    frames = ~is_pause
    before = np.concatenate([[0, 0, 0], np.cumsum(frames)])  # frames up to state n - 3
    skipped = np.zeros((_MAX_JUMP + 1, len(frames)), np.intp)
    for jump in (2, 3):
        skipped[jump] = before[2 : 2 + len(frames)] - before[3 - jump : 3 - jump + len(frames)]
    table = np.array([0.0, _SKIP_ONE, _SKIP_TWO], np.float32)[skipped]
    table[0, frames] = _STAY
    table[1:, is_pause & ~own_pause] += _ENTER_PAUSE
    return table
