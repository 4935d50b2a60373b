"""Tempo and key from measured series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .features import FRAMES_PER_S

PITCH_CLASSES = ("C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")

_SLOWEST_BPM, _FASTEST_BPM = 40.0, 220.0
_LIKELIEST_BPM, _SPREAD_OCTAVES = 120.0, 0.9  # people hear a beat near two a second
_MIN_TEMPO_CONFIDENCE = 0.3
_SHORTEST_FRAMES = 4 * FRAMES_PER_S
_LONGEST_FRAMES = 600 * FRAMES_PER_S

# C. Krumhansl, "Cognitive Foundations of Musical Pitch" (1990): how well each degree fits a key.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
_MIN_KEY_LIKENESS, _MIN_KEY_LEAD = 0.75, 0.02
_MIN_CLASSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tempo:
    """Beats a minute, and how periodic the onsets are: 0 to 1."""

    bpm: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key such as `C major`, and its profile's correlation with the chroma: up to 1."""

    name: str
    confidence: float


def tempo(onsets: npt.NDArray[np.float32]) -> Tempo | None:
    """Find the beat by autocorrelation.

    Args:
        onsets: How much begins in each frame [F], `FRAMES_PER_S`; only the first ten minutes count.

    Returns:
        `None` if there is no regular beat.
    """
    onsets = onsets[:_LONGEST_FRAMES]
    if len(onsets) < _SHORTEST_FRAMES:
        return None
    likeness = _autocorrelation(onsets - onsets.mean())
    lags = np.arange(int(60 * FRAMES_PER_S / _FASTEST_BPM), int(60 * FRAMES_PER_S / _SLOWEST_BPM) + 1)
    octaves = np.log2(60 * FRAMES_PER_S / lags / _LIKELIEST_BPM)
    best = int(lags[np.argmax(likeness[lags] * np.exp(-0.5 * (octaves / _SPREAD_OCTAVES) ** 2))])
    confidence = float(np.clip(likeness[best], 0, 1))
    if confidence < _MIN_TEMPO_CONFIDENCE:
        return None
    return Tempo(bpm=float(60 * FRAMES_PER_S / _refined(likeness, best)), confidence=confidence)


def _autocorrelation(series: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Normalised to 1 at lag 0, and for the shrinking overlap; all 0 for a constant series."""
    count = len(series)
    spectrum = np.fft.rfft(series, 2 * count)
    product = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[:count]
    if product[0] < 1e-9:
        return np.zeros(count)
    normalised: npt.NDArray[np.float64] = product / product[0] * count / (count - np.arange(count))
    return normalised


def _refined(likeness: npt.NDArray[np.float64], lag: int) -> float:
    """The period in frames, more exactly: a peak at eight periods is eight times as sharp."""
    period = float(lag)
    for multiple in (1, 2, 4, 8):
        centre = round(period * multiple)
        if centre + multiple + 2 >= len(likeness) // 2:
            break
        near = np.arange(centre - multiple, centre + multiple + 1)
        peak = int(near[np.argmax(likeness[near])])
        y0, y1, y2 = likeness[peak - 1 : peak + 2]
        bend = y0 - 2 * y1 + y2
        period = (peak + (0.5 * (y0 - y2) / bend if bend < 0 else 0)) / multiple
    return period


def key(chroma: npt.NDArray[np.float64]) -> Key | None:
    """Find the key whose profile is most like the strengths of the twelve pitch classes, from C: [12].

    Returns:
        `None` if fewer than three classes sound, or no key fits clearly best.
    """
    if chroma.max() <= 0 or int((chroma > 0.15 * chroma.max()).sum()) < _MIN_CLASSES or np.ptp(chroma) == 0:
        return None
    likeness = {
        f"{PITCH_CLASSES[tonic]} {mode}": float(np.corrcoef(np.roll(profile, tonic), chroma)[0, 1])
        for mode, profile in (("major", _MAJOR), ("minor", _MINOR))
        for tonic in range(12)
    }
    ranked = sorted(likeness, key=lambda name: likeness[name], reverse=True)
    best, second = likeness[ranked[0]], likeness[ranked[1]]
    if best < _MIN_KEY_LIKENESS or best - second < _MIN_KEY_LEAD:
        return None
    return Key(name=ranked[0], confidence=min(best, 1.0))
