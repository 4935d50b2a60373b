"""Integrated loudness after ITU-R BS.1770-5, in LUFS."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .audio import Samples

_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_HOPS_PER_BLOCK = 4  # blocks of 400 ms that overlap by three quarters
_OFFSET_LUFS = -0.691  # makes a 997 Hz sine of full scale in one front channel -3.01 LUFS
# The weighting's high-pass has decayed to e^-60 after this time.
_MEMORY_S = 0.25
# L, R, C, LFE, Ls, Rs in the order of WAV files; the channel for low effects is not counted.
_WEIGHTS = {5: (1.0, 1.0, 1.0, 1.41, 1.41), 6: (1.0, 1.0, 1.0, 0.0, 1.41, 1.41)}


class LoudnessMeter:
    """Takes audio block by block; keeps one number for every 100 ms."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._rate = sample_rate
        self._hop = max(1, round(sample_rate / 10))
        self._weights = np.array(_WEIGHTS.get(channels, (1.0,) * channels))
        self._context = np.zeros((round(_MEMORY_S * sample_rate), channels), np.float32)
        self._rest = np.zeros(0)
        self._hops: list[npt.NDArray[np.float64]] = []

    def push(self, block: Samples) -> None:
        """Take the next samples, [S, C]."""
        heard = np.concatenate([self._context, block])
        self._context = heard[len(heard) - len(self._context) :]
        size = 1 << (len(heard) - 1).bit_length()
        # Overlap-save: what wraps around lies in the context, which is dropped.
        spectrum = np.fft.rfft(heard, size, axis=0) * k_weighting(self._rate, size)[:, None]
        weighted = np.fft.irfft(spectrum, size, axis=0)[len(heard) - len(block) : len(heard)]
        energy = np.concatenate([self._rest, weighted**2 @ self._weights])
        whole = len(energy) // self._hop * self._hop
        self._hops.append(energy[:whole].reshape(-1, self._hop).mean(axis=1))
        self._rest = energy[whole:]

    def integrated(self) -> float | None:
        """The gated loudness so far; `None` for silence and for less than 400 ms."""
        hops = np.concatenate([np.zeros(0), *self._hops])
        if len(hops) < _HOPS_PER_BLOCK:
            return None
        blocks = np.convolve(hops, np.full(_HOPS_PER_BLOCK, 1 / _HOPS_PER_BLOCK), mode="valid")
        audible = blocks[blocks > _power(_ABSOLUTE_GATE_LUFS)]
        if len(audible) == 0:
            return None
        gate = audible.mean() * 10 ** (_RELATIVE_GATE_LU / 10)
        return float(_OFFSET_LUFS + 10 * np.log10(audible[audible > gate].mean()))


def k_weighting(sample_rate: int, size: int) -> npt.NDArray[np.complex128]:
    """The frequency response of the K-weighting at the bins of a real FFT of `size` samples.

    BS.1770 gives coefficients for 48 kHz. The analogue parameters behind them, with which the bilinear
    transform makes those coefficients and their like for other rates, are from B. De Man, "Evaluation of
    implementations of the EBU R128 loudness measurement" (2018).
    """
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    k = np.tan(np.pi * 1681.974450955533 / sample_rate)
    q, high, band = 0.7071752369554196, 10 ** (3.999843853973347 / 20), 0.4996667741545416
    middle = high**band
    shelf_b = (high + middle * k / q + k * k, 2 * (k * k - high), high - middle * k / q + k * k)
    shelf_a = (1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k)
    k = np.tan(np.pi * 38.13547087602444 / sample_rate)
    q = 0.5003270373238773
    norm = 1 + k / q + k * k
    pass_a = (1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm)
    response: npt.NDArray[np.complex128] = (
        _at(shelf_b, z) / _at(shelf_a, z) * _at((1.0, -2.0, 1.0), z) / _at(pass_a, z)
    )
    return response


def _at(
    coefficients: tuple[float, float, float], z: npt.NDArray[np.complex128]
) -> npt.NDArray[np.complex128]:
    c0, c1, c2 = coefficients
    return c0 + c1 * z + c2 * z * z


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - _OFFSET_LUFS) / 10))
