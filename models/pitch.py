"""The pitch of single voices and instruments, frame by frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .features import SAMPLE_RATE_HZ, Matrix

WINDOW = 1024  # samples: 64 ms hold two periods of the lowest pitch and more
HOP = 320
LOWEST_HZ, HIGHEST_HZ = 60, 1000
VOICED_CLARITY = 0.6

_FIRST_PEAK_SHARE = 0.9  # the first peak this near the highest is the period, not a multiple of it
_FFT = 2048


def pitches_hz(frames: Matrix) -> npt.NDArray[np.float32]:
    """Estimate the pitch of each frame by the normalised square difference.

    Source: P. McLeod and G. Wyvill, "A smarter way to find pitch" (2005).

    Args:
        frames: [F, WINDOW] at `SAMPLE_RATE_HZ`.

    Returns:
        [F] in hertz, NaN where the frame is not voiced.
    """
    frames = frames - frames.mean(axis=1, keepdims=True)
    shortest, longest = SAMPLE_RATE_HZ // HIGHEST_HZ, SAMPLE_RATE_HZ // LOWEST_HZ + 2
    likeness = _likeness(frames, longest + 1)  # [F, lags]
    middle, before, behind = likeness[:, 1:-1], likeness[:, :-2], likeness[:, 2:]
    peaks = np.where((middle >= before) & (middle > behind), middle, 0)
    peaks[:, : shortest - 1] = 0
    highest = peaks.max(axis=1, initial=0)
    found = (peaks >= _FIRST_PEAK_SHARE * highest[:, None]).argmax(axis=1)
    rows = np.arange(len(frames))
    y0, y1, y2 = (part[rows, found] for part in (before, middle, behind))
    bend = y0 - 2 * y1 + y2
    with np.errstate(divide="ignore", invalid="ignore"):
        lag = found + 1 + np.where(bend < 0, 0.5 * (y0 - y2) / bend, 0)
        pitch: npt.NDArray[np.float32] = (SAMPLE_RATE_HZ / lag).astype(np.float32)
    pitch[highest < VOICED_CLARITY] = np.nan
    return pitch


def _likeness(frames: Matrix, lags: int) -> npt.NDArray[np.float64]:
    """2 Σ x(j) x(j + lag) / Σ (x(j)² + x(j + lag)²) for each lag below `lags`: [F, lags]."""
    spectrum = np.fft.rfft(frames, _FFT)
    product = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, _FFT)[:, :lags]
    squares = np.cumsum(np.pad(frames.astype(np.float64) ** 2, ((0, 0), (1, 0))), axis=1)
    lag = np.arange(lags)
    energy = squares[:, WINDOW - lag] + squares[:, -1:] - squares[:, lag]
    likeness: npt.NDArray[np.float64] = 2 * product / np.maximum(energy, 1e-9)
    return likeness
