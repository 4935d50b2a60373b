from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.models.aligner.windows import (
    CONTEXT,
    HOP,
    LONGEST,
    WINDOW,
    Window,
    cut_windows,
    frames_in_all,
    frames_of,
)

Sound = npt.NDArray[np.float32]


def blocks(sound: Sound, size: int = 16000) -> Iterator[Sound]:
    return (sound[start : start + size] for start in range(0, len(sound), size))


def counted(samples: int) -> Sound:
    """Sound in which every sample tells its place, from 1 on."""
    return np.arange(1, samples + 1, dtype=np.float32)


def windows(samples: int, size: int = 16000) -> list[Window]:
    return list(cut_windows(blocks(counted(samples), size)))


def test_what_is_shorter_than_a_window_is_heard_as_it_is() -> None:
    (window,) = windows(WINDOW - 1)
    assert np.array_equal(window.samples, counted(WINDOW - 1))
    assert (window.first, window.end) == (0, frames_of(WINDOW - 1)) == (0, 1499)


@pytest.mark.parametrize(
    ("samples", "frames"), [(400, 1), (719, 1), (720, 2), (48_000, 149), (1_124_800, 3515)]
)
def test_frames_are_counted_as_published(samples: int, frames: int) -> None:
    assert frames_in_all(samples) == frames


@pytest.mark.parametrize("samples", [0, 160, 399])
def test_less_than_a_frame_gives_no_window(samples: int) -> None:
    assert windows(samples) == []
    assert frames_in_all(samples) == 0


@pytest.mark.parametrize("missing", [0, 1, 160, 319, 320, 321, HOP * 1499, WINDOW - 1])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_missing_samples_cost_no_frames(count: int, missing: int) -> None:
    """With 1 to 319 samples missing, the published way loses all frames."""
    samples = count * WINDOW - missing
    if samples < WINDOW:
        return
    found = windows(samples)
    assert sum(window.end - window.first for window in found) == 1500 * count - missing // HOP
    assert frames_in_all(samples) == 1500 * count - missing // HOP


def test_windows_overlap_by_their_context_and_are_filled_with_silence() -> None:
    samples = 2 * WINDOW + 12_345
    found = windows(samples)
    padded = np.concatenate(
        [np.zeros(CONTEXT, np.float32), counted(samples), np.zeros(2 * LONGEST, np.float32)]
    )
    assert len(found) == 3
    for index, window in enumerate(found):
        assert np.array_equal(window.samples, padded[index * WINDOW : index * WINDOW + LONGEST])
        assert window.first == 100
    assert [window.end for window in found] == [1600, 1600, 100 + -(-12_345 // HOP)]


@given(st.integers(0, 3 * WINDOW + 5), st.integers(1, 2 * LONGEST))
def test_the_size_of_the_blocks_makes_no_difference(samples: int, size: int) -> None:
    whole = windows(samples, max(1, samples))
    parts = windows(samples, max(size, samples // 50 + 1))
    assert len(whole) == len(parts)
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one.samples, other.samples)
        assert (one.first, one.end) == (other.first, other.end)
    assert sum(window.end - window.first for window in parts) == frames_in_all(samples)
