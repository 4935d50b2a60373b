"""The log-mel spectrum beside the published one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from soundmill.models.captioner.spectrum import SAMPLE_RATE_HZ, frames_of, log_mel

from .golden import golden_mel, goldens


def test_the_golden_clip_has_the_golden_spectrum() -> None:
    torch.testing.assert_close(
        torch.from_numpy(log_mel(goldens()[1].samples)), golden_mel(), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("samples", [100, 321, 1600, 16000, 48777])
def test_the_real_length_gives_the_frames_of_the_padded_one(samples: int) -> None:
    sound = (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)
    published = WhisperFeatureExtractor(feature_size=128, chunk_length=30)(
        sound, sampling_rate=SAMPLE_RATE_HZ, return_tensors="np"
    )
    frames = frames_of(samples)

    np.testing.assert_allclose(log_mel(sound), published.input_features[0][:, :frames], rtol=0, atol=1e-4)


def test_silence_is_even_and_finite() -> None:
    mel = log_mel(np.zeros(SAMPLE_RATE_HZ, np.float32))

    assert mel.shape == (128, 100)
    np.testing.assert_allclose(mel, -1.5, atol=1e-6)
