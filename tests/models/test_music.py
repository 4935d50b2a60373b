from __future__ import annotations

import numpy as np
import pytest

from soundmill.models.features import FRAMES_PER_S
from soundmill.models.music import PITCH_CLASSES, key, tempo
from soundmill.models.pitch import HIGHEST_HZ, LOWEST_HZ, WINDOW, pitches_hz

RATE_HZ = 16000


def clicks(bpm: float, seconds: float = 20) -> np.ndarray:
    onsets = np.zeros(round(seconds * FRAMES_PER_S), np.float32)
    onsets[np.arange(0, len(onsets), 60 * FRAMES_PER_S / bpm).astype(int)] = 1
    return onsets


@pytest.mark.parametrize("bpm", [60, 77, 92.5, 120, 133, 150])
def test_a_regular_beat_has_its_tempo(bpm: float) -> None:
    found = tempo(clicks(bpm))
    assert found is not None
    assert found.bpm == pytest.approx(bpm, rel=0.005)
    assert 0.3 <= found.confidence <= 1


def test_noise_silence_and_moments_have_no_tempo() -> None:
    assert tempo(np.random.default_rng(0).random(3000).astype(np.float32)) is None
    assert tempo(np.zeros(3000, np.float32)) is None
    assert tempo(np.zeros(0, np.float32)) is None
    assert tempo(clicks(120, 2)) is None


@pytest.mark.parametrize("tonic", range(12))
def test_a_scale_with_a_strong_triad_has_its_key(tonic: int) -> None:
    major = np.array([5, 0, 2, 0, 4, 2, 0, 5, 0, 2, 0, 2.0])
    minor = np.array([5, 0, 2, 4, 0, 2, 0, 5, 2, 0, 2, 0.0])
    for chroma, mode in ((major, "major"), (minor, "minor")):
        found = key(np.roll(chroma, tonic))
        assert found is not None
        assert found.name == f"{PITCH_CLASSES[tonic]} {mode}"


def test_one_note_silence_and_all_notes_have_no_key() -> None:
    assert key(np.eye(12)[9]) is None
    assert key(np.zeros(12)) is None
    assert key(np.ones(12)) is None


def frames_of(sound: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(sound.astype(np.float32), WINDOW)[::320]


@pytest.mark.parametrize("hz", [LOWEST_HZ + 2, 97.3, 220, 440, HIGHEST_HZ - 20])
@pytest.mark.parametrize("harmonics", [1, 8])
def test_a_periodic_sound_has_its_pitch(hz: float, harmonics: int) -> None:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    sound = sum(np.sin(2 * np.pi * hz * n * time_s + n) / n for n in range(1, harmonics + 1) if hz * n < 7000)
    assert pitches_hz(frames_of(np.asarray(sound))) == pytest.approx(hz, rel=0.01)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE_HZ)
    assert np.isnan(pitches_hz(frames_of(noise))).all()
    assert np.isnan(pitches_hz(frames_of(np.zeros(RATE_HZ)))).all()
    assert len(pitches_hz(np.zeros((0, WINDOW), np.float32))) == 0
