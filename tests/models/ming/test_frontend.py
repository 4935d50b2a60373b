from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from soundmill.models.errors import InputError, ModelUnavailable
from soundmill.models.ming.fbank import fbank, speaker_features
from soundmill.models.ming.reference_audio import read_reference
from soundmill.models.ming.resampling import resample
from soundmill.models.ming.speaker import SpeakerEncoder

from . import golden
from .golden import MODULE, close

EXPECTED = {name: tensor.numpy() for name, tensor in golden.vectors("frontend").items()}
WIDE = EXPECTED["wave_24k"][0]
NARROW = EXPECTED["wave_16k"][0]


def agrees(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    close(torch.from_numpy(found), torch.from_numpy(expected), MODULE)


def test_resampling_agrees() -> None:
    agrees(resample(WIDE, 24000, 44100), EXPECTED["wave_44k1"][0])
    agrees(resample(WIDE, 24000, 16000), NARROW)


def test_the_log_mel_energies_agree() -> None:
    agrees(fbank(NARROW), EXPECTED["fbank_raw"])
    agrees(speaker_features(NARROW), EXPECTED["fbank"])


@pytest.mark.parametrize(("rate", "target"), [(44101, 44100), (48000, 44100), (8000, 16000)])
def test_a_tone_keeps_its_pitch_and_length_at_any_rate(rate: int, target: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)

    found = resample(tone, rate, target)

    assert abs(len(found) - target) <= 1
    middle = slice(target // 4, target // 2)
    expected = np.sin(2 * np.pi * 440 * np.arange(target) / target)
    np.testing.assert_allclose(found[middle], expected[middle], atol=0.01)


def test_a_voice_is_a_vector_that_is_computed_once() -> None:
    encoder = SpeakerEncoder(golden.CHECKPOINT)

    vector = encoder.embed(NARROW)

    assert vector.shape == (192,)
    energies = speaker_features(NARROW)
    np.testing.assert_allclose(vector[80:160], (energies**2).mean(axis=0), rtol=1e-4)
    assert encoder.embed(NARROW.copy()) is vector
    assert encoder.embed(NARROW[:8000]) is not vector


def test_without_its_library_or_its_file_a_voice_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelUnavailable, match=r"campplus\.onnx is missing"):
        SpeakerEncoder(tmp_path).embed(NARROW)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelUnavailable, match=r"onnxruntime is missing.*soundmill\[speaker\]"):
        SpeakerEncoder(golden.CHECKPOINT).embed(NARROW)
    (tmp_path / "campplus.onnx").write_bytes(b"no network")
    monkeypatch.undo()
    with pytest.raises(ModelUnavailable, match="cannot be read by onnxruntime"):
        SpeakerEncoder(tmp_path).embed(NARROW)


def read(path: Path) -> None:
    read_reference(path, "speaker_audio", 44100, 16000)


def recording(path: Path, samples: npt.NDArray[np.float32], rate: int = 16000) -> Path:
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.zeros(16000, np.float32), 16000, "it is silent"),
        (np.full(16000, np.nan, np.float32), 16000, "not finite"),
        (np.ones(4000, np.float32), 4000, "it is sampled at 4000 Hz; give 8000 Hz or more"),
        (np.ones(1600, np.float32), 16000, "it is shorter than 0.4 s"),
        (np.ones(61 * 8000, np.float32), 8000, "longer than the 60 s"),
    ],
)
def test_reference_audio_that_no_voice_is_in_is_refused(
    tmp_path: Path, samples: npt.NDArray[np.float32], rate: int, words: str
) -> None:
    with pytest.raises(InputError, match=f"speaker_audio: .*{words}"):
        read(recording(tmp_path / "audio.wav", samples, rate))


def test_a_file_that_is_no_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audio.wav").write_text("no audio")

    with pytest.raises(InputError, match="speaker_audio: the file is not audio"):
        read(tmp_path / "audio.wav")


def test_channels_are_mixed_and_both_rates_come_of_the_original(tmp_path: Path) -> None:
    both = np.stack((WIDE, np.zeros_like(WIDE)), axis=1)

    found = read_reference(recording(tmp_path / "audio.wav", both, 24000), "audio", 44100, 16000)

    agrees(2 * found.samples, EXPECTED["wave_44k1"][0])
    agrees(2 * found.narrow, NARROW)
