"""Resampling as the model's training did it: a sinc under a squared cosine.

Everywhere else soxr resamples; speaker vectors and prompt latents shall be those that the model knows.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import soxr

Samples = npt.NDArray[np.float32]

_ZEROS = 6  # of the sinc, on each side
_ROLLOFF = 0.99
_MOST_WEIGHTS = 1 << 22  # rates without a common divisor would ask for billions


def resample(samples: Samples, rate: int, target: int) -> Samples:
    """Bring [S] from `rate` to `target` hertz, with ceil(S · target / rate) samples.

    With o and n the rates by their common divisor, base = 0.99 · min(o, n) and
    t = clamp((i/o − j/n) · base, ±6), output j of each n is the sum over the inputs i of
    sinc(t) · cos²(πt/12) · base/o. Weights are float64 on the host.
    """
    if rate == target:
        return samples
    divisor = math.gcd(rate, target)
    old, new = rate // divisor, target // divisor
    base = _ROLLOFF * min(old, new)
    reach = math.ceil(_ZEROS * old / base)
    taps = 2 * reach + old
    if taps * new > _MOST_WEIGHTS:
        return np.asarray(soxr.resample(samples, rate, target), np.float32)
    i = np.arange(-reach, reach + old)[:, None]
    j = np.arange(new)
    t = np.clip((i / old - j / new) * base, -_ZEROS, _ZEROS)
    kernel = np.sinc(t) * np.cos(math.pi * t / (2 * _ZEROS)) ** 2 * (base / old)  # [taps, new]
    padded = np.pad(samples, (reach, reach + old))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)[::old]
    wanted = math.ceil(new * len(samples) / old)
    resampled = windows @ kernel.astype(np.float32)
    return np.ascontiguousarray(resampled.reshape(-1)[:wanted], np.float32)
