"""From a file to windows: any rate and format, nothing lost, and a sentence for what cannot be used."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from soundmill.models.audio import AudioWriter
from soundmill.models.captioner import clip
from soundmill.models.captioner.clip import CHUNK_SAMPLES, MIN_SAMPLES, open_clip, window_mel, windows_of
from soundmill.models.captioner.spectrum import SAMPLE_RATE_HZ, log_mel
from soundmill.models.errors import InputError

from .golden import goldens


def opened(path: Path, window_s: float = 300.0) -> clip.Clip:
    spill = path.parent / "spill"
    spill.touch()
    return open_clip(path, spill, window_s)


def written(folder: Path, sound: Any, rate: int = SAMPLE_RATE_HZ, name: str = "a.wav", **more: Any) -> Path:
    soundfile.write(folder / name, sound, rate, **more)
    return folder / name


def test_a_clip_at_16_khz_is_taken_as_it_is(tmp_path: Path) -> None:
    golden = goldens()[0]
    found = opened(written(tmp_path, golden.samples, subtype="PCM_16"))

    assert found.samples == len(golden.samples)
    np.testing.assert_array_equal(found.mel, log_mel(golden.samples))


@pytest.mark.parametrize(
    ("rate", "channels", "name"),
    [(44100, 2, "a.flac"), (48000, 1, "a.ogg"), (8000, 1, "a.wav"), (44100, 2, "a.mp3"), (96000, 6, "a.wav")],
)
def test_any_rate_and_format_becomes_mono_at_16_khz(
    tmp_path: Path, rate: int, channels: int, name: str
) -> None:
    time_s = np.arange(2 * rate) / rate
    sound = np.repeat(0.3 * np.sin(2 * np.pi * 440 * time_s)[:, None], channels, axis=1)
    form = {".ogg": "opus"}.get(Path(name).suffix, Path(name).suffix[1:])
    with AudioWriter(tmp_path / name, format=form, from_hz=rate, sample_rate=rate, channels=channels) as file:
        file.write(sound.astype(np.float32))
    found = opened(tmp_path / name)

    assert found.duration_s == pytest.approx(2.0, abs=0.001)
    assert found.mel is not None
    loudest = {int(band) for band in found.mel[:, 50:150].argmax(axis=0)}
    assert loudest <= {17, 18}, "440 Hz are 6.6 mel, and a band is 0.351 mel wide"


def test_a_longer_clip_goes_through_a_file_and_its_windows_are_those_of_the_whole(tmp_path: Path) -> None:
    sound = (0.1 * np.random.default_rng(0).standard_normal(47 * SAMPLE_RATE_HZ)).astype(np.float32)
    path = written(tmp_path, sound, subtype="FLOAT")
    found = opened(path, window_s=10.0)
    windows = windows_of(found.samples, 10.0)

    assert found.mel is None
    assert found.samples == len(sound)
    assert len(windows) == 5
    for window in windows:
        mel = window_mel(tmp_path / "spill", window)
        np.testing.assert_array_equal(mel, log_mel(sound[window.start : window.stop]))


@given(st.integers(MIN_SAMPLES, 3 * 3600 * SAMPLE_RATE_HZ), st.floats(10, 300))
def test_windows_have_no_gap_and_are_about_equal(samples: int, window_s: float) -> None:
    windows = windows_of(samples, window_s)
    lengths = [window.stop - window.start for window in windows]

    assert windows[0].start == 0
    assert windows[-1].stop == samples
    assert all(one.stop == other.start for one, other in pairwise(windows))
    assert max(lengths) <= round(window_s * SAMPLE_RATE_HZ)
    assert min(lengths) >= min(samples, max(lengths) - 2 * CHUNK_SAMPLES, 4 * SAMPLE_RATE_HZ)
    assert all(window.start % CHUNK_SAMPLES == 0 for window in windows)


def test_three_hundred_seconds_are_one_window_and_a_sample_more_are_two() -> None:
    assert len(windows_of(300 * SAMPLE_RATE_HZ, 300.0)) == 1
    assert [round(window.stop_s) for window in windows_of(300 * SAMPLE_RATE_HZ + 1, 300.0)] == [150, 300]


def _nothing(folder: Path) -> Path:
    (folder / "a.wav").touch()
    return folder / "a.wav"


def _mislabelled(folder: Path) -> Path:
    (folder / "a.mp3").write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 40)
    return folder / "a.mp3"


def _truncated(folder: Path) -> Path:
    path = written(folder, np.zeros(16000), name="a.flac")
    path.write_bytes(written(folder, goldens()[0].samples, name="a.flac").read_bytes()[:9000])
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_nothing, "empty"),
        (_mislabelled, "not audio that can be read"),
        (_truncated, "truncated|damaged"),
        (lambda folder: written(folder, np.zeros(0)), "holds no samples"),
        (lambda folder: written(folder, np.full(16000, np.nan), subtype="FLOAT"), "not finite"),
        (lambda folder: written(folder, np.zeros(320)), "too short to be heard: 20.0 ms"),
        (lambda folder: folder / "none.wav", "does not exist"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(tmp_path: Path, make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        opened(make(tmp_path))


def test_more_than_four_hours_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "MAX_AUDIO_S", 1.5)
    with pytest.raises(InputError, match=r"longer than the 1\.5 s"):
        opened(written(tmp_path, np.zeros(32000)))


def test_a_wav_under_the_name_of_an_mp3_is_read_for_what_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, goldens()[0].samples)

    assert opened(path.rename(tmp_path / "a.mp3")).samples == len(goldens()[0].samples)


def test_reading_stops_when_nobody_waits_any_more(tmp_path: Path) -> None:
    path = written(tmp_path, np.zeros(20 * SAMPLE_RATE_HZ))
    spill = tmp_path / "spill"
    spill.touch()

    class Gone(type(spill)):  # type: ignore[misc]
        def exists(self, **_: Any) -> bool:
            return False

    with pytest.raises(InputError, match="nobody waited"):
        open_clip(path, Gone(spill), 10.0)
