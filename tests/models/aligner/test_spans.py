from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.models.aligner.spans import frame_scores, label_frames


def spans(path: str) -> list[tuple[int, int]]:
    """The frames of each label of a path, written as `..a.bb`, where a dot is a blank."""
    states, label, last = [], -1, "."
    for frame in path:
        if frame != "." and (frame != last):
            label += 1
        states.append(2 * label + 1 if frame != "." else 2 * (label + 1))
        last = frame
    frames = label_frames(np.array(states, np.int32), label + 1)
    return list(zip(frames.first.tolist(), frames.last.tolist(), strict=True))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", [(0, 0)]),
        ("..aa.", [(0, 4)]),  # a first and a last label take the blanks at the edges
        ("ab", [(0, 0), (1, 1)]),
        ("a.b", [(0, 1), (1, 2)]),  # both take the middle frame
        ("a..b", [(0, 1), (1, 3)]),
        ("a...b", [(0, 2), (2, 4)]),
        ("a....b", [(0, 2), (2, 5)]),
        ("a.a", [(0, 1), (1, 2)]),
        (".aa.bc..d.", [(0, 3), (3, 4), (5, 6), (6, 9)]),
    ],
)
def test_blanks_are_divided_between_neighbours(path: str, expected: list[tuple[int, int]]) -> None:
    assert spans(path) == expected


@given(st.text(st.sampled_from(".ab"), min_size=1, max_size=30).filter(lambda path: path.strip(".")))
def test_labels_take_all_frames_and_at_most_share_one(path: str) -> None:
    found = spans(path)
    assert found[0][0] == 0
    assert found[-1][1] == len(path) - 1
    for (first, last), (following, _) in itertools.pairwise(found):
        assert first <= last
        assert following in (last, last + 1)


def test_a_frame_scores_what_the_path_has_there() -> None:
    emissions = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]))
    labels = np.array([1, 3], np.int32)  # 3 is the star
    scores = frame_scores(emissions, labels, np.array([0, 1, 2, 3], np.int32))
    assert np.exp(scores).tolist() == pytest.approx([0.5, 0.7, 0.6, 1.0])
