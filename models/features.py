"""Mel and cepstral features of speech, at one rate and one frame step for everything that compares them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from .audio import Samples

Matrix = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16000
HOP = 160
WINDOW = 400
FFT = 512
FRAMES_PER_S = SAMPLE_RATE_HZ // HOP  # 100, without a remainder
FRAME_STEP_S = 1 / FRAMES_PER_S
MEL_BANDS = 40
CEPSTRA = 13

_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7600.0
_BLOCK_FRAMES = 2000


def frame_count(samples: int) -> int:
    """How many frames `mel_power` makes: frame f is centred on sample f · HOP."""
    return samples // HOP + 1


def mel_power(samples: Samples, checkpoint: Callable[[], None]) -> Matrix:
    """The power in each mel band, of [S] at `SAMPLE_RATE_HZ`.

    Args:
        checkpoint: Called after each `_BLOCK_FRAMES` frames.

    Returns:
        [F, MEL_BANDS], not negative; F as `frame_count` says.
    """
    frames = frame_count(len(samples))
    padded = np.pad(samples, (WINDOW // 2, WINDOW // 2 + HOP))
    power = np.empty((frames, MEL_BANDS), np.float32)
    for start in range(0, frames, _BLOCK_FRAMES):
        end = min(start + _BLOCK_FRAMES, frames)
        part = padded[start * HOP : (end - 1) * HOP + WINDOW]
        power[start:end] = mel_power_of(np.lib.stride_tricks.sliding_window_view(part, WINDOW)[::HOP])
        checkpoint()
    return power


def mel_power_of(frames: Matrix) -> Matrix:
    """The power in each mel band of frames that are already cut: [F, WINDOW] to [F, MEL_BANDS]."""
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    spectrum = np.fft.rfft(frames * window, FFT)
    power: Matrix = ((spectrum.real**2 + spectrum.imag**2) @ _mel_filters().T).astype(np.float32)
    return power


def cepstra(power: Matrix) -> Matrix:
    """Mel-frequency cepstral coefficients, by the orthonormal DCT-II of the log power: [F, CEPSTRA]."""
    logs = np.log(power + np.float32(1e-10))
    cepstrum: Matrix = (logs @ _cosines().T).astype(np.float32)
    return cepstrum


def level_db(power: Matrix) -> npt.NDArray[np.float32]:
    """The level of each frame in decibels, to an arbitrary reference: [F]."""
    level: npt.NDArray[np.float32] = 10 * np.log10(power.sum(axis=1) + np.float32(1e-10))
    return level


@cache
def _mel_filters() -> Matrix:
    """Triangles of unit height, evenly spaced on the mel scale of O'Shaughnessy (1987): [MEL_BANDS, FFT/2+1]."""
    lowest, highest = (2595 * np.log10(1 + hz / 700) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
    edges_hz = 700 * (10 ** (np.linspace(lowest, highest, MEL_BANDS + 2) / 2595) - 1)
    bins_hz = np.arange(FFT // 2 + 1) * SAMPLE_RATE_HZ / FFT
    left, centre, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - left) / (centre - left), (right - bins_hz) / (right - centre)
    filters: Matrix = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return filters


@cache
def _cosines() -> Matrix:
    order, band = np.arange(CEPSTRA)[:, None], np.arange(MEL_BANDS)
    table = np.sqrt(2 / MEL_BANDS) * np.cos(np.pi * order * (2 * band + 1) / (2 * MEL_BANDS))
    table[0] /= np.sqrt(2)
    cosines: Matrix = table.astype(np.float32)
    return cosines
