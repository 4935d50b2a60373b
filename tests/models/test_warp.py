from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from soundmill.models import warp
from soundmill.models.warp import Chain, best_path, chain

DIMENSIONS = 8


def frames(count: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSIONS))
    unit: np.ndarray = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


WORDS = [frames(count, seed) for seed, count in enumerate((7, 4, 9))]
SILENCE = np.zeros((1, DIMENSIONS), np.float32)


def laid_out(words: list[np.ndarray]) -> tuple[np.ndarray, Chain]:
    """The words' frames one behind the other, and the chain of their ranges."""
    ends = np.cumsum([len(word) for word in words]).tolist()
    return np.concatenate(words), chain([range(*pair) for pair in pairwise([0, *ends])])


def path_of(
    recording: np.ndarray, words: list[np.ndarray], near: np.ndarray | None = None
) -> tuple[np.ndarray, Chain]:
    """The state of each frame; a pause is free where the recording is zero and dear elsewhere."""
    reference, states = laid_out(words)
    cost = np.where(recording.any(axis=1), 2, 0).astype(np.float32)
    found = best_path(recording, cost, reference, states, lambda _share: None, near=near)
    assert found is not None
    return found[0], states


def owners(recording: np.ndarray, words: list[np.ndarray]) -> list[int]:
    """The word of each frame."""
    path, states = path_of(recording, words)
    return [int(word) for word in states.word[path]]


def test_the_reference_itself_is_found_frame_by_frame() -> None:
    assert owners(np.concatenate(WORDS), WORDS) == [0] * 7 + [1] * 4 + [2] * 9


def test_a_slow_recording_stays_and_a_quick_one_skips() -> None:
    assert owners(np.concatenate(WORDS).repeat(2, axis=0), WORDS) == [0] * 14 + [1] * 8 + [2] * 18
    quick = np.concatenate([word[::2] for word in WORDS])
    assert owners(quick, WORDS) == [0] * 4 + [1] * 2 + [2] * 5


def test_pauses_may_stand_before_between_and_behind_words() -> None:
    silence = SILENCE.repeat(5, axis=0)
    recording = np.concatenate([silence, WORDS[0], WORDS[1], silence, WORDS[2], silence])
    assert owners(recording, WORDS) == [-1] * 5 + [0] * 7 + [1] * 4 + [-1] * 5 + [2] * 9 + [-1] * 5


def test_no_word_is_lost_however_short() -> None:
    words = [frames(1, seed) for seed in range(6)]
    found = owners(frames(12, 99), words)
    assert sorted({word for word in found if word >= 0}) == [0, 1, 2, 3, 4, 5]


def test_a_recording_that_is_too_short_has_no_path() -> None:
    assert best_path(frames(4, 5), np.zeros(4, np.float32), *laid_out(WORDS), lambda _share: None) is None


def test_blocks_and_windows_do_not_change_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [frames(12, seed) for seed in range(60)]
    recording = np.concatenate([word.repeat(1 + index % 2, axis=0) for index, word in enumerate(words)])
    whole = owners(recording, words)
    monkeypatch.setattr(warp, "BLOCK", 17)
    assert owners(recording, words) == whole
    monkeypatch.setattr(warp, "WINDOW", 200)
    assert owners(recording, words) == whole
    assert whole == [index for index, word in enumerate(words) for _ in range(12 * (1 + index % 2))]


def test_a_known_path_leads_a_narrow_search_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [frames(12, seed) for seed in range(60)]
    recording = np.concatenate([*words[:30], SILENCE.repeat(90, axis=0), *words[30:]])
    path, _ = path_of(recording, words)
    monkeypatch.setattr(warp, "BLOCK", 17)
    monkeypatch.setattr(warp, "NEAR", 160)  # three states a frame on either side of a block
    assert path_of(recording, words, near=path)[0].tolist() == path.tolist()


def test_a_gap_within_a_word_is_no_pause_between_words() -> None:
    gap = SILENCE.repeat(3, axis=0)
    assert owners(np.concatenate([WORDS[0][:4], gap, WORDS[0][4:], *WORDS[1:]]), WORDS) == (
        [0] * 10 + [1] * 4 + [2] * 9
    )


def test_the_share_that_is_done_rises_to_one() -> None:
    shares: list[float] = []
    recording = frames(600, 1)
    best_path(recording, np.zeros(600, np.float32), *laid_out(WORDS), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
