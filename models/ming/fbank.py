"""The front end of the speaker network: log mel energies, as Kaldi computes them.

Frames of 25 ms every 10 ms without padding; each loses its mean, is pre-emphasised and windowed (Povey); the
power of a transform of 512 points is summed by 80 triangles on Kaldi's mel scale. It runs on the host, in
fp32 throughout: in quiet bins the roundings of training are larger than the numbers' own meaning.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

SAMPLE_RATE_HZ = 16_000
BINS = 80
LEAST_SAMPLES = 400
"""One frame."""

_HOP = 160
_FFT = 512
_PREEMPHASIS = 0.97
_LOW_HZ = 20.0
_FLOOR = torch.finfo(torch.float32).eps

Floats = npt.NDArray[np.float32]


def fbank(samples: Floats) -> Floats:
    """Log mel energies [T, 80] of 16 kHz audio [S] in [-1, 1], at least one frame of it.

    The floor of the logarithm lies within what quiet parts reach, so the scale of the samples matters.
    """
    frames = torch.from_numpy(np.ascontiguousarray(samples)).unfold(0, LEAST_SAMPLES, _HOP)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
    frames = (frames - _PREEMPHASIS * before) * _povey()
    power = torch.fft.rfft(functional.pad(frames, (0, _FFT - LEAST_SAMPLES))).abs().pow(2)
    energies: Floats = (power @ _triangles()).clamp(min=_FLOOR).log().numpy()
    return energies


def speaker_features(samples: Floats) -> Floats:
    """The input of the speaker network [T, 80]: log mel energies less their mean over time."""
    energies = torch.from_numpy(fbank(samples))
    features: Floats = (energies - energies.mean(dim=0, keepdim=True)).numpy()
    return features


@cache
def _povey() -> Tensor:
    return torch.hann_window(LEAST_SAMPLES, periodic=False).pow(0.85)


@cache
def _triangles() -> Tensor:
    """Weights [257, 80]; the last bin, Nyquist, has none."""
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (_LOW_HZ, SAMPLE_RATE_HZ / 2))
    step = (high - low) / (BINS + 1)
    edges = low + torch.arange(BINS + 2) * step
    hz = torch.arange(_FFT // 2)[:, None] * (SAMPLE_RATE_HZ / _FFT)
    mel = 1127.0 * (1.0 + hz / 700.0).log()
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return functional.pad(torch.minimum(rising, falling).clamp(min=0), (0, 0, 0, 1))
