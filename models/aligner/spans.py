"""From the best path to times and scores.

A part takes the frames of its labels. The blank frames between two neighbours are divided in their middle,
floor((first + last) / 2), and *both* take the middle frame, for their scores as for their times, but the later one
is then said to start where the earlier one ends. What comes before the first label belongs to it, and what
comes behind the last label to that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..trellis import BLANK, Emissions, States

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFrames:
    """Where each label is on the path, in frames, both inclusive: the first and last of its own, and of its reach.

    Attributes:
        first: [L], the first frame that a part takes which begins with this label.
        last: [L], the last frame that a part takes which ends with this label.
    """

    first: Indices
    last: Indices


def label_frames(states: States, count: int) -> LabelFrames:
    """Find the frames of `count` labels, at least one."""
    odd = 2 * np.arange(count) + 1
    begin = np.searchsorted(states, odd)
    end = np.searchsorted(states, odd, side="right") - 1
    first, last = begin.astype(np.int64), end.astype(np.int64)
    gap = begin[1:] > end[:-1] + 1
    # The blank's frames are end + 1 … begin − 1.
    middle = (end[:-1] + begin[1:]) // 2
    first[1:] = np.where(gap, middle, begin[1:])
    last[:-1] = np.where(gap, middle, end[:-1])
    first[0], last[-1] = 0, len(states) - 1
    return LabelFrames(first=first, last=last)


def frame_scores(
    emissions: Emissions, labels: npt.NDArray[np.int32], states: States
) -> npt.NDArray[np.float64]:
    """[F]: the log-probability of what the path has at each frame; of a star, 0."""
    classes = emissions.shape[1]
    heard = np.where(states % 2 == 1, np.append(labels, BLANK)[states // 2], BLANK)
    said = emissions[np.arange(len(states)), np.minimum(heard, classes - 1)]
    scores: npt.NDArray[np.float64] = said.astype(np.float64)
    scores[heard == classes] = 0.0
    return scores
