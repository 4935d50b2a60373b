"""What can be measured of a clip in one pass over it, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from . import features, pitch
from .audio import Samples, blocks, probe, samples_to_seconds, to_mono
from .loudness import LoudnessMeter

Series = npt.NDArray[np.float32]

_SPECTRUM_RATE_HZ = 22050
_SPECTRUM_WINDOW, _SPECTRUM_HOP = 8192, 4096
_CHROMA_LOWEST_HZ, _CHROMA_HIGHEST_HZ = 60.0, 2000.0
_A4_HZ, _A4_CLASS = 440.0, 9
_NOTE_WIDTH_BINS, _NOTE_RISE = 6, 10.0  # 16 Hz to either side; ten times the power
_POWER_FLOOR = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """A clip in numbers. Series have `features.FRAMES_PER_S` frames a second unless stated.

    Attributes:
        peak: The largest magnitude of a sample; 1 is full scale.
        loudness_lufs: Integrated; `None` for silence and for less than 400 ms.
        level_db: RMS of each frame of 25 ms, in dBFS.
        onsets: How much louder the mel bands became since the frame before.
        pitch_hz: Fifty values a second, NaN where nothing is voiced.
        centroid_hz: The centre of gravity of the power spectrum; `None` for silence.
        chroma: [12] Strength of the pitch classes from C.
    """

    duration_s: float
    sample_rate: int
    channels: int
    peak: float
    loudness_lufs: float | None
    level_db: Series
    onsets: Series
    pitch_hz: Series
    centroid_hz: float | None
    chroma: npt.NDArray[np.float64]


def measure(path: Path, *, max_s: float, checkpoint: Callable[[float | None], None]) -> Measures:
    """Read a file once and measure it. Memory grows by under 2 kB for each second.

    Raises:
        InputError: As `audio.blocks`.
    """
    info = probe(path)
    meter = LoudnessMeter(info.sample_rate, info.channels)
    frames, spectrum = _FrameMeasures(info.sample_rate), _SpectrumMeasures(info.sample_rate)
    peak, done = 0.0, 0
    for block in blocks(path, max_s=max_s):
        meter.push(block)
        mono = to_mono(block)
        frames.push(mono)
        spectrum.push(mono)
        peak = max(peak, float(np.abs(block).max(initial=0)))
        done += len(block)
        checkpoint(min(1.0, done / info.samples))
    frames.close()
    spectrum.close()
    return Measures(
        duration_s=samples_to_seconds(done, info.sample_rate),
        sample_rate=info.sample_rate,
        channels=info.channels,
        peak=peak,
        loudness_lufs=meter.integrated(),
        level_db=np.concatenate(frames.levels),
        onsets=np.concatenate(frames.onsets),
        pitch_hz=np.concatenate(frames.pitches),
        centroid_hz=spectrum.centroid_hz(),
        chroma=spectrum.chroma,
    )


class _Resampler:
    """Changes the rate of a stream."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._stream: Any = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")

    def push(self, samples: Samples) -> Samples:
        changed: Samples = self._stream.resample_chunk(samples)
        return changed

    def close(self) -> Samples:
        rest: Samples = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        return rest


class _Frames:
    """Cuts a stream into overlapping frames, centred on the multiples of `hop` samples."""

    def __init__(self, window: int, hop: int) -> None:
        self._window, self._hop = window, hop
        self._rest = np.zeros(window // 2, np.float32)

    def push(self, samples: Samples) -> Samples:
        """[F, window], F ≥ 0."""
        stream = np.concatenate([self._rest, samples])
        count = max(0, (len(stream) - self._window) // self._hop + 1)
        self._rest = stream[count * self._hop :]
        if count == 0:
            return np.zeros((0, self._window), np.float32)
        return np.lib.stride_tricks.sliding_window_view(stream, self._window)[:: self._hop][:count]

    def close(self) -> Samples:
        return self.push(np.zeros(self._window // 2, np.float32))


class _FrameMeasures:
    """Level, onsets and pitch: what needs short frames."""

    def __init__(self, sample_rate: int) -> None:
        self._resampler = _Resampler(sample_rate, features.SAMPLE_RATE_HZ)
        self._short = _Frames(features.WINDOW, features.HOP)
        self._long = _Frames(pitch.WINDOW, pitch.HOP)
        self._before: Samples | None = None
        self.levels: list[Series] = []
        self.onsets: list[Series] = []
        self.pitches: list[Series] = []

    def push(self, samples: Samples) -> None:
        samples = self._resampler.push(samples)
        self._measure(self._short.push(samples), self._long.push(samples))

    def close(self) -> None:
        samples = self._resampler.close()
        self._measure(self._short.push(samples), self._long.push(samples))
        self._measure(self._short.close(), self._long.close())

    def _measure(self, short: Samples, long: Samples) -> None:
        self.pitches.append(pitch.pitches_hz(long))
        self.levels.append(10 * np.log10((short**2).mean(axis=1) + np.float32(_POWER_FLOOR)))
        if len(short) == 0:
            return
        # The floor keeps the flicker of near silence from looking like onsets.
        logs = np.log10(features.mel_power_of(short) + np.float32(1e-3))
        before = logs[:1] if self._before is None else self._before
        rises = np.diff(np.concatenate([before, logs]), axis=0)
        self.onsets.append(np.maximum(rises, 0).sum(axis=1))
        self._before = logs[-1:]


class _SpectrumMeasures:
    """Brightness and pitch classes: what needs fine frequencies."""

    def __init__(self, sample_rate: int) -> None:
        self._resampler = _Resampler(sample_rate, _SPECTRUM_RATE_HZ)
        self._frames = _Frames(_SPECTRUM_WINDOW, _SPECTRUM_HOP)
        self._window = np.hanning(_SPECTRUM_WINDOW + 1)[:-1].astype(np.float32)
        self._hz = np.arange(_SPECTRUM_WINDOW // 2 + 1) * _SPECTRUM_RATE_HZ / _SPECTRUM_WINDOW
        self._moment = self._power = 0.0
        self.chroma = np.zeros(12)

    def push(self, samples: Samples) -> None:
        self._measure(self._frames.push(self._resampler.push(samples)))

    def close(self) -> None:
        self._measure(self._frames.push(self._resampler.close()))
        self._measure(self._frames.close())

    def centroid_hz(self) -> float | None:
        return self._moment / self._power if self._power > _POWER_FLOOR else None

    def _measure(self, frames: Samples) -> None:
        power = np.abs(np.fft.rfft(frames * self._window)) ** 2  # [F, bins]
        self._moment += float((power @ self._hz).sum())
        self._power += float(power.sum())
        # A held note is a sharp peak; what is struck or hissed rises broadly, and has no pitch class.
        near = _NOTE_WIDTH_BINS
        middle, hz = power[:, near:-near], self._hz[near:-near]
        peaks = (middle > power[:, near - 1 : -near - 1]) & (middle >= power[:, near + 1 : 1 - near])
        peaks &= middle > _NOTE_RISE * np.maximum(power[:, : -2 * near], power[:, 2 * near :])
        peaks &= (hz >= _CHROMA_LOWEST_HZ) & (hz <= _CHROMA_HIGHEST_HZ)
        classes = (np.round(12 * np.log2(hz / _A4_HZ)).astype(int) + _A4_CLASS) % 12
        # Square roots, so that one loud note does not drown the others.
        strength = np.where(peaks, np.sqrt(middle), 0).sum(axis=0)
        self.chroma += np.bincount(classes, weights=strength, minlength=12)
