"""The path of a recording through a reference that consists of words: time warping with optional pauses.

The reference is a chain of states: pause, frames of the first word, pause, frames of the second word, …,
pause. Every frame of the recording sits in exactly one state; from frame to frame the path stays, goes on,
or skips a little. Pauses may be passed over at no cost, so a recording may pause between any two words, or
not at all.

The search looks at a moving window of `WINDOW` states and keeps only every `BLOCK`-th row of scores; the
rows between are computed again on the way back. Memory is F/BLOCK · WINDOW numbers, whatever the length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .features import Matrix

BLOCK = 256
WINDOW = 16384  # states: at 100 frames a second, two and a half minutes
MIN_WORD_FRAMES = 3  # the longest skip passes over two: no word is lost on the way

# Measured on eSpeak's voices at ×0.75 to ×1.3 with and without noise and pauses; all three are uncritical.
_STAY, _SKIP_ONE, _SKIP_TWO = 0.10, 0.10, 0.30
_MAX_JUMP = 3

States = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The states of a reference.

    Attributes:
        features: [N, D], unit rows; zero rows for pauses.
        word: [N] the word of each state, -1 for a pause.
    """

    features: Matrix
    word: npt.NDArray[np.int32]


def chain(words: Sequence[Matrix]) -> Chain:
    """Put a pause before, between and behind the words, each [F, D] with F ≥ 1 unit rows."""
    pause = np.zeros((1, words[0].shape[1]), np.float32)
    features, owners = [pause], [-1]
    for index, frames in enumerate(words):
        count = max(len(frames), MIN_WORD_FRAMES)
        chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
        features += [frames[chosen], pause]
        owners += [index] * count + [-1]
    return Chain(features=np.concatenate(features), word=np.array(owners, np.int32))


def best_path(
    recording: Matrix,
    pause_cost: npt.NDArray[np.float32],
    reference: Chain,
    checkpoint: Callable[[float], None],
) -> tuple[States, npt.NDArray[np.float32]] | None:
    """Find the cheapest path.

    Args:
        recording: [F, D], unit rows; a frame in a word's state costs one minus the cosine.
        pause_cost: [F] what a frame costs in a pause.
        checkpoint: Called at least every `BLOCK` frames with the share that is done.

    Returns:
        The state of each frame [F] and what it costs there [F]; `None` if the recording is too short to
        pass through the whole reference.
    """
    search = _Search(recording, pause_cost, reference)
    for block in range(search.blocks):
        search.forward(block)
        checkpoint(0.5 * (block + 1) / search.blocks)
    state = search.last_state()
    if state is None:
        return None
    states = np.empty(len(recording), np.intp)
    costs = np.empty(len(recording), np.float32)
    for block in reversed(range(search.blocks)):
        state = search.backward(block, state, states, costs)
        checkpoint(1 - 0.5 * block / search.blocks)
    return states, costs


class _Search:
    def __init__(self, recording: Matrix, pause_cost: npt.NDArray[np.float32], reference: Chain) -> None:
        self.recording = recording
        self.pause_cost = pause_cost
        self.reference = reference
        self.blocks = -(-len(recording) // BLOCK)
        self.width = min(WINDOW, len(reference.word))
        self.is_pause = reference.word < 0
        self.penalties = _penalties(self.is_pause)
        # The scores with which each block begins, and the first state of its window.
        self.entries: list[npt.NDArray[np.float32]] = [_first_scores(self.width)]
        self.offsets = [0]

    def forward(self, block: int) -> None:
        """Score one block and place the window of the next around its best state."""
        scores, _, _ = self._score(block, keep=False)
        offset = self.offsets[block]
        best = offset + int(np.argmin(scores))
        last = len(self.is_pause) - self.width
        following = min(max(best - self.width // 2, offset), last)
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

    def backward(self, block: int, state: int, states: States, costs: npt.NDArray[np.float32]) -> int:
        """Follow the path from the state after which `block` ended to the one before it began."""
        _, jumps, local = self._score(block, keep=True)
        offset, first = self.offsets[block], block * BLOCK
        for row in reversed(range(len(jumps))):
            states[first + row] = state
            costs[first + row] = local[row, state - offset]
            state -= int(jumps[row, state - offset])
        return state

    def _score(
        self, block: int, *, keep: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], Matrix]:
        """Run the rows of one block; `keep` says whether the jumps taken are wanted."""
        offset = self.offsets[block]
        window = slice(offset, offset + self.width)
        rows = slice(block * BLOCK, min((block + 1) * BLOCK, len(self.recording)))
        local = 1 - self.recording[rows] @ self.reference.features[window].T  # [f, width]
        local[:, self.is_pause[window]] = self.pause_cost[rows, None]
        penalties = self.penalties[:, window]
        jumps = np.zeros(local.shape if keep else (0, 0), np.uint8)
        scores = self.entries[block]
        choices = np.full((_MAX_JUMP + 1, self.width), np.inf, np.float32)
        for row, cost in enumerate(local):
            for jump in range(_MAX_JUMP + 1):
                choices[jump, jump:] = scores[: self.width - jump] + penalties[jump, jump:]
            if keep:
                jumps[row] = choices.argmin(axis=0)
            scores = choices.min(axis=0) + cost
        return scores, jumps, local


def _first_scores(width: int) -> npt.NDArray[np.float32]:
    """As if a frame before the first had sat in the first pause."""
    scores = np.full(width, np.inf, np.float32)
    scores[0] = 0
    return scores


def _penalties(is_pause: npt.NDArray[np.bool_]) -> Matrix:
    """What it costs to reach each state by a jump of 0, 1, 2 or 3: [4, N]. Passing over a pause is free."""
    frames = ~is_pause
    before = np.concatenate([[0, 0, 0], np.cumsum(frames)])  # frames up to state n - 3
    skipped = np.zeros((_MAX_JUMP + 1, len(frames)), np.intp)
    for jump in (2, 3):
        skipped[jump] = before[2 : 2 + len(frames)] - before[3 - jump : 3 - jump + len(frames)]
    table = np.array([0.0, _SKIP_ONE, _SKIP_TWO], np.float32)[skipped]
    table[0, frames] = _STAY
    return table
