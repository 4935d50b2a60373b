from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundmill.models.audio import (
    MEDIA_TYPES,
    AudioWriter,
    blocks,
    probe,
    read,
    samples_to_seconds,
    seconds_to_samples,
    to_mono,
)
from soundmill.models.errors import InputError

RATES_HZ = {
    "wav": (8000, 22050, 48000),
    "flac": (8000, 44100),
    "mp3": (8000, 16000, 22050, 24000, 32000, 44100, 48000),
    "opus": (8000, 16000, 24000, 48000),
}
FORMATS_AND_RATES = [(name, rate) for name, rates in RATES_HZ.items() for rate in rates]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def written(path: Path, sound: np.ndarray, format: str, rate: int, from_hz: int | None = None) -> Path:
    with AudioWriter(path, format=format, from_hz=from_hz or rate, sample_rate=rate) as writer:
        writer.write(sound)
    return path


def test_every_format_has_a_media_type() -> None:
    assert set(MEDIA_TYPES) == set(RATES_HZ)


@pytest.mark.parametrize(("format", "rate"), FORMATS_AND_RATES)
@pytest.mark.parametrize("samples", [1, 1151, 40_001])
def test_a_format_gives_back_exactly_the_samples_that_went_in(
    tmp_path: Path, format: str, rate: int, samples: int
) -> None:
    path = written(tmp_path / "a", noise(samples), format, rate)
    back, back_rate = soundfile.read(path)
    assert (len(back), back_rate) == (samples, rate)
    assert probe(path).samples == samples


@pytest.mark.parametrize(
    ("format", "rate"), [("wav", 22050), ("flac", 22050), ("mp3", 44100), ("opus", 48000)]
)
def test_a_format_gives_the_samples_back_at_their_place(tmp_path: Path, format: str, rate: int) -> None:
    # Noise below 4 kHz, which the lossy codecs keep.
    spectrum = np.fft.rfft(noise(2 * rate))
    spectrum[8000:] = 0
    sound = np.fft.irfft(spectrum).astype(np.float32)
    back = read(written(tmp_path / "a", sound, format, rate), sample_rate=rate)
    likeness = np.fft.irfft(np.fft.rfft(back) * np.conj(np.fft.rfft(sound)))
    assert np.argmax(likeness) == 0


@pytest.mark.parametrize("rate", [8000, 24000, 44100, 48000])
def test_writing_in_blocks_resamples_as_writing_at_once(tmp_path: Path, rate: int) -> None:
    sound = noise(22050 + 17)
    with AudioWriter(tmp_path / "a", format="wav", from_hz=22050, sample_rate=rate) as writer:
        for start in range(0, len(sound), 777):
            writer.write(sound[start : start + 777])
    whole = written(tmp_path / "b", sound, "wav", rate, from_hz=22050)
    assert writer.samples == round(len(sound) * rate / 22050) == probe(tmp_path / "a").samples
    assert np.array_equal(soundfile.read(tmp_path / "a")[0], soundfile.read(whole)[0])


def test_samples_beyond_full_scale_are_clipped_not_wrapped(tmp_path: Path) -> None:
    path = written(tmp_path / "a", np.array([2.0, -2.0], np.float32), "wav", 8000)
    assert soundfile.read(path)[0] == pytest.approx([1, -1], abs=1e-4)


def test_seconds_and_samples_are_each_others_inverse() -> None:
    assert seconds_to_samples(samples_to_seconds(12345, 22050), 22050) == 12345
    assert samples_to_seconds(22050, 22050) == 1.0


def test_mono_is_the_mean_of_the_channels() -> None:
    assert to_mono(np.array([[1, 0], [0.5, 0.5]], np.float32)).tolist() == [0.5, 0.5]
    assert to_mono(np.array([1.0], np.float32)).tolist() == [1.0]


def test_reading_mixes_and_resamples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([noise(44101), noise(44101, 1)], axis=1), 44100)
    calls: list[None] = []
    sound = read(tmp_path / "a.flac", sample_rate=16000, checkpoint=lambda: calls.append(None))
    assert sound.shape == (16000,)
    assert sound.dtype == np.float32
    assert len(calls) == 2


def test_blocks_are_read_without_holding_the_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([noise(20000)] * 2, axis=1), 8000)
    assert [block.shape for block in blocks(tmp_path / "a.wav")] == [(8000, 2), (8000, 2), (4000, 2)]


def refusal(path: Path, **limits: float) -> str:
    with pytest.raises(InputError) as error:
        list(blocks(path, **limits))
    return str(error.value)


@pytest.mark.parametrize("format", sorted(MEDIA_TYPES))
def test_what_is_read_in_blocks_is_what_is_read_at_once(tmp_path: Path, format: str) -> None:
    path = written(tmp_path / "a", noise(3 * 48000), format, 48000)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0]

    np.testing.assert_allclose(np.concatenate(list(blocks(path, block_s=0.3))), whole, atol=1e-6)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.wav")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert "empty" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.txt", "a.raw", "a"])
@pytest.mark.parametrize("content", [b"this is no audio " * 99, b"RIFF\x24\x00\x00\x00WAVE", b"\xff\xfb\x90"])
def test_what_is_not_audio_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "not audio" in refusal(tmp_path / name)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 8000)
    assert "no samples" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    sound = noise(20000)
    sound[15000] = value
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    assert "not finite" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("format", ["wav", "flac", "mp3"])
def test_a_truncated_file_is_refused(tmp_path: Path, format: str) -> None:
    whole = written(tmp_path / "whole", noise(48000), format, 16000).read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refusal(tmp_path / "half")


def test_a_wav_of_unknown_length_from_a_pipe_is_read(tmp_path: Path) -> None:
    whole = bytearray(written(tmp_path / "a.wav", noise(8000), "wav", 8000).read_bytes())
    whole[4:8] = whole[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(whole)
    assert sum(len(block) for block in blocks(tmp_path / "a.wav")) == 8000


def test_audio_over_the_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(16001), 8000)
    assert "2 s" in refusal(tmp_path / "a.wav", max_s=2)
    soundfile.write(tmp_path / "a.wav", noise(16000), 8000)
    assert len(list(blocks(tmp_path / "a.wav", max_s=2))) == 2
