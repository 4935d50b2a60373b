"""The log-mel spectrum that Whisper encoders hear, over the real length of a clip. numpy only.

The published pipeline pads every clip with zeros to 300 s first. All that this padding changes is
that the last frames look into zeros instead of a reflection, so 400 zeros give the same frames.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from ..audio import Samples

Mel = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
HOP = 160
WINDOW = 400
MEL_BANDS = 128
FRAMES_PER_S = SAMPLE_RATE_HZ // HOP  # 100, without a remainder

_FLOOR = 1e-10
_RANGE = 8.0  # decades below the loudest band of the clip
_BLOCK_FRAMES = 2000
# Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, then 27 steps to a factor of 6.4.
_LINEAR_HZ_PER_MEL = 200 / 3
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def frames_of(samples: int) -> int:
    """How many frames `log_mel` makes of so many samples."""
    return -(-samples // HOP)


def log_mel(samples: Samples) -> Mel:
    """The spectrum of one clip.

    Args:
        samples: [S] at `SAMPLE_RATE_HZ`, S ≥ 1.

    Returns:
        [MEL_BANDS, F], F = `frames_of(S)`, in decades, shifted and scaled to about [-1.5, 1.5].
    """
    frames = frames_of(len(samples))
    padded = np.pad(np.concatenate([samples, np.zeros(WINDOW, np.float32)]), WINDOW // 2, mode="reflect")
    mel = np.empty((MEL_BANDS, frames), np.float32)
    for start in range(0, frames, _BLOCK_FRAMES):
        end = min(start + _BLOCK_FRAMES, frames)
        part = padded[start * HOP : (end - 1) * HOP + WINDOW]
        cut = np.lib.stride_tricks.sliding_window_view(part, WINDOW)[::HOP]
        spectrum = np.fft.rfft(cut * _window())
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        mel[:, start:end] = _filters() @ power.T
    np.log10(np.maximum(mel, _FLOOR, out=mel), out=mel)
    np.maximum(mel, mel.max() - _RANGE, out=mel)
    return (mel + 4.0) / 4.0


@cache
def _window() -> npt.NDArray[np.float32]:
    return np.hanning(WINDOW + 1)[:-1].astype(np.float32)  # the periodic one


@cache
def _filters() -> Mel:
    """Triangles of equal area, spaced evenly in mel from 0 Hz to half the rate: [MEL_BANDS, bins]."""
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, WINDOW // 2 + 1)
    edges_hz = _mel_to_hz(np.linspace(0, _hz_to_mel(SAMPLE_RATE_HZ / 2), MEL_BANDS + 2))
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (high - low))).astype(np.float32)


def _hz_to_mel(hz: float) -> float:
    if hz < _KNEE_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return float(_KNEE_MEL + np.log(hz / _KNEE_HZ) / _LOG_STEP)


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logarithmic = _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HZ_PER_MEL, logarithmic)
