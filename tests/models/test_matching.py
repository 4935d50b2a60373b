from __future__ import annotations

import numpy as np

from soundmill.models.features import CEPSTRA, MEL_BANDS
from soundmill.models.matching import Voice, comparable

DRAWN = np.random.default_rng(0)


def voice(cepstra: np.ndarray) -> Voice:
    return Voice(cepstra=cepstra.astype(np.float32), speech=np.ones(len(cepstra), np.bool_))


def powers(frames: int, loud: slice) -> np.ndarray:
    """Quiet noise in all bands, with loud frames that change from one to the next."""
    power = np.full((frames, MEL_BANDS), 1e-6) * DRAWN.uniform(0.8, 1.2, (frames, MEL_BANDS))
    power[loud] += DRAWN.uniform(0.1, 1, power[loud].shape)
    return power.astype(np.float32)


def test_a_voice_becomes_another_that_differs_from_it_by_a_linear_map() -> None:
    said = DRAWN.standard_normal((5000, CEPSTRA))
    change = np.eye(CEPSTRA) + 0.3 * DRAWN.standard_normal((CEPSTRA, CEPSTRA))
    other = said @ change + 0.5
    every = np.arange(len(said))
    likened = voice(said).likened(voice(other), every, every)
    assert np.abs(likened.cepstra - other).mean() < 0.1 * np.abs(said - other).mean()


def test_a_few_frames_change_a_voice_little_and_none_nothing() -> None:
    mine, other = voice(DRAWN.standard_normal((100, CEPSTRA))), voice(DRAWN.standard_normal((100, CEPSTRA)))
    few, none = np.arange(5), np.arange(0)
    assert np.abs(mine.likened(other, few, few).cepstra - mine.cepstra).mean() < 0.2
    assert np.array_equal(mine.likened(other, none, none).cepstra, mine.cepstra)


def test_features_have_length_one() -> None:
    features = voice(DRAWN.standard_normal((50, CEPSTRA))).features()
    assert features.shape == (50, 2 * CEPSTRA)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_level_and_channel_make_no_difference() -> None:
    rendering = powers(300, slice(50, 250))
    channel = np.linspace(0.2, 3, MEL_BANDS, dtype=np.float32)
    heard, read, loudness = comparable(rendering * channel * 1e-3, rendering)
    assert np.abs(heard.cepstra[60:240] - read.cepstra[60:240]).max() < 0.05
    assert np.array_equal(np.flatnonzero(heard.speech), np.arange(50, 250))
    assert loudness[:50].max() < 0.1
    assert loudness[50:250].min() > 0.8


def test_hum_is_not_loud_however_strong() -> None:
    rendering = powers(300, slice(50, 250))
    recording = rendering.copy()
    recording[:, :2] += 1000
    heard, _, loudness = comparable(recording, rendering)
    assert np.array_equal(np.flatnonzero(heard.speech), np.arange(50, 250))
    assert loudness[:50].max() < 0.1
