"""From measures to features, and from features to plain English."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .features import FRAMES_PER_S
from .measures import Measures
from .music import Key, Tempo, key, tempo

Kind = Literal["silence", "noise", "tone", "speech", "music", "sound"]

# A frame is silent below -70 dBFS, or this far below the loud ones.
_SILENCE_DB, _SILENCE_RANGE_DB = -70.0, 40.0
_ALL_SILENT = 0.99
_LOUD_PERCENTILE, _SOFT_PERCENTILE = 95, 10

# Thresholds of `_kind`; built signals lie well to either side (noise spreads by 0.3 to 2.4 dB and speech by
# 6 to 9, speech holds a pitch for 0.1 to 0.3 of the time and notes for 0.75 to 1, and so on).
_STEADY_DB = 4.0
_FEW_VOICED, _ALL_VOICED = 0.10, 0.90
_HELD = 0.6
_SYLLABIC, _UNEVEN = 0.45, 0.5
_CLEAR_BEAT = 0.5

_HELD_SEMITONES = 0.25
_HOLD_FRAMES = 5  # of fifty a second: a tenth of a second
_SYLLABLES_HZ, _RHYTHMS_HZ = (2.0, 8.0), (0.3, 25.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pitch:
    """The middle of the pitches that were heard, and the range of the middle eight tenths."""

    median_hz: float
    low_hz: float
    high_hz: float

    @property
    def range_semitones(self) -> float:
        return float(12 * np.log2(self.high_hz / self.low_hz))


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """A clip in a few numbers; `None` is what cannot be said.

    Attributes:
        kind: A guess from the four measures at the end. `sound` where none fits.
        loudness_lufs: Integrated, after ITU-R BS.1770.
        dynamic_range_db: From the soft (10th percentile) to the loud (95th) of what is not silent.
        silence_share: Of the frames, 0 to 1.
        brightness_hz: The spectral centroid up to 11 kHz.
        voiced_share: Frames with a pitch among those that are not silent. Of chords it is the common
            fundamental that counts as their pitch.
        held_share: Voiced moments at which the pitch stays within a quarter semitone for a tenth of a second.
        syllabic_share: How much of the level's movement has the rate of syllables, 2 to 8 a second.
        unevenness: The spread of the level as a share of its mean.
    """

    kind: Kind
    duration_s: float
    sample_rate: int
    channels: int
    loudness_lufs: float | None
    peak_dbfs: float | None
    dynamic_range_db: float
    silence_share: float
    tempo: Tempo | None
    key: Key | None
    pitch: Pitch | None
    brightness_hz: float | None
    voiced_share: float
    held_share: float
    syllabic_share: float
    unevenness: float


def features(measures: Measures) -> Features:
    """Sum up what was measured."""
    loud = float(np.percentile(measures.level_db, _LOUD_PERCENTILE))
    threshold = max(_SILENCE_DB, loud - _SILENCE_RANGE_DB)
    active = measures.level_db > threshold
    sounding = measures.level_db[active]
    pitches = measures.pitch_hz[~np.isnan(measures.pitch_hz)]
    silence_share = 1 - float(active.mean())
    voiced_share = min(1.0, len(pitches) / max(1.0, float(active.mean()) * len(measures.pitch_hz)))
    held_share = _held_share(measures.pitch_hz)
    syllabic_share, unevenness = _movement(np.maximum(measures.level_db, threshold))
    beat = tempo(measures.onsets)
    spread_db = float(sounding.std()) if len(sounding) else 0.0
    kind = _kind(silence_share, spread_db, voiced_share, held_share, syllabic_share, unevenness, beat)
    return Features(
        kind=kind,
        duration_s=measures.duration_s,
        sample_rate=measures.sample_rate,
        channels=measures.channels,
        loudness_lufs=measures.loudness_lufs,
        peak_dbfs=20 * float(np.log10(measures.peak)) if measures.peak > 0 else None,
        dynamic_range_db=max(0.0, loud - float(np.percentile(sounding, _SOFT_PERCENTILE)))
        if len(sounding)
        else 0.0,
        silence_share=silence_share,
        tempo=beat if kind == "music" else None,
        key=key(measures.chroma) if kind == "music" else None,
        pitch=_pitch(pitches) if voiced_share >= _FEW_VOICED and kind != "silence" else None,
        brightness_hz=measures.centroid_hz if kind != "silence" else None,
        voiced_share=voiced_share,
        held_share=held_share,
        syllabic_share=syllabic_share,
        unevenness=unevenness,
    )


def _kind(
    silence_share: float,
    spread_db: float,
    voiced_share: float,
    held_share: float,
    syllabic_share: float,
    unevenness: float,
    beat: Tempo | None,
) -> Kind:
    pitched = voiced_share >= _FEW_VOICED
    if silence_share >= _ALL_SILENT:
        return "silence"
    if spread_db < _STEADY_DB and voiced_share >= _ALL_VOICED and held_share >= _ALL_VOICED and beat is None:
        return "tone"
    clear_beat = beat is not None and beat.confidence >= _CLEAR_BEAT
    if clear_beat or (pitched and held_share >= _HELD):
        return "music"
    if spread_db < _STEADY_DB and not pitched:
        return "noise"
    if syllabic_share >= _SYLLABIC and unevenness >= _UNEVEN:
        return "speech"
    return "music" if beat is not None else "sound"


def _pitch(pitches: npt.NDArray[np.float32]) -> Pitch | None:
    if len(pitches) == 0:
        return None
    low, median, high = (float(value) for value in np.percentile(pitches, (10, 50, 90)))
    return Pitch(median_hz=median, low_hz=low, high_hz=high)


def _held_share(pitch_hz: npt.NDArray[np.float32]) -> float:
    semitones = 12 * np.log2(pitch_hz)
    moves = np.abs(semitones[_HOLD_FRAMES:] - semitones[:-_HOLD_FRAMES])
    moves = moves[~np.isnan(moves)]
    return float((moves < _HELD_SEMITONES).mean()) if len(moves) else 0.0


def _movement(level_db: npt.NDArray[np.float32]) -> tuple[float, float]:
    """(syllabic share, unevenness) of the level."""
    amplitude = 10 ** (level_db.astype(np.float64) / 20)
    mean = float(amplitude.mean())
    power = np.abs(np.fft.rfft(amplitude - mean)) ** 2
    hz = np.fft.rfftfreq(len(amplitude), 1 / FRAMES_PER_S)
    syllables, rhythms = (
        float(power[(hz >= low) & (hz <= high)].sum()) for low, high in (_SYLLABLES_HZ, _RHYTHMS_HZ)
    )
    return syllables / rhythms if rhythms > 0 else 0.0, float(amplitude.std()) / mean


def caption(found: Features) -> str:
    """One or two sentences of plain English."""
    first = f"{_seconds(found.duration_s)} of {_subject(found)}"
    if found.kind == "silence":
        return f"{first}."
    if found.loudness_lufs is not None:
        first += f", {_loudness(found.loudness_lufs)} ({found.loudness_lufs:.1f} LUFS)"
    if found.silence_share >= 0.05:
        first += f", with {found.silence_share:.0%} silence"
    details = [*_pitch_words(found), *_brightness_words(found), *_dynamics_words(found)]
    return f"{first}." + (f" It is {_listed(details)}." if details else "")


def _seconds(duration_s: float) -> str:
    if duration_s < 60:
        number = f"{duration_s:.1f}".removesuffix(".0")
        return f"{number} second" + ("" if number == "1" else "s")
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"


def _subject(found: Features) -> str:
    channels = {1: "mono", 2: "stereo"}.get(found.channels, f"{found.channels}-channel")
    if found.kind in ("tone", "noise"):
        article = "a " if found.kind == "tone" else ""
        return f"{article}steady {channels} {found.kind}"
    words = f"{channels} {found.kind}"
    if found.key is not None:
        words += f" in {found.key.name}"
    if found.tempo is not None:
        words += f" at about {found.tempo.bpm:.0f} beats per minute"
    return words


def _loudness(lufs: float) -> str:
    for limit, word in ((-40, "very quiet"), (-28, "quiet"), (-18, "moderately loud"), (-11, "loud")):
        if lufs < limit:
            return word
    return "very loud"


def _pitch_words(found: Features) -> list[str]:
    if found.pitch is None or found.kind not in ("speech", "tone"):
        return []
    if found.kind == "tone":
        return [f"pitched at {found.pitch.median_hz:.0f} Hz"]
    height = "low" if found.pitch.median_hz < 140 else "medium" if found.pitch.median_hz < 200 else "high"
    melody = (
        "monotonous"
        if found.pitch.range_semitones < 4
        else "lively"
        if found.pitch.range_semitones > 10
        else ""
    )
    words = f"{height} in pitch (around {found.pitch.median_hz:.0f} Hz)"
    return [words, melody] if melody else [words]


def _brightness_words(found: Features) -> list[str]:
    if found.brightness_hz is None or found.kind == "tone":
        return []
    for limit, word in ((700, "dark"), (1600, "warm"), (3500, "clear")):
        if found.brightness_hz < limit:
            return [f"{word} in timbre"]
    return ["bright in timbre"]


def _dynamics_words(found: Features) -> list[str]:
    if found.kind == "speech":
        return []
    return (
        ["even in level"]
        if found.dynamic_range_db < 6
        else ["wide in dynamics"]
        if found.dynamic_range_db > 25
        else []
    )


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def as_json(found: Features) -> dict[str, Any]:
    """The features with rounded numbers; `None` where nothing can be said, never NaN."""
    return {
        "kind": found.kind,
        "duration_s": found.duration_s,
        "sample_rate": found.sample_rate,
        "channels": found.channels,
        "loudness_lufs": _rounded(found.loudness_lufs, 1),
        "peak_dbfs": _rounded(found.peak_dbfs, 1),
        "dynamic_range_db": round(found.dynamic_range_db, 1),
        "silence_share": round(found.silence_share, 3),
        "tempo": found.tempo
        and {"bpm": round(found.tempo.bpm, 1), "confidence": round(found.tempo.confidence, 2)},
        "key": found.key and {"name": found.key.name, "confidence": round(found.key.confidence, 2)},
        "pitch": found.pitch
        and {
            "median_hz": round(found.pitch.median_hz, 1),
            "low_hz": round(found.pitch.low_hz, 1),
            "high_hz": round(found.pitch.high_hz, 1),
        },
        "brightness_hz": _rounded(found.brightness_hz, 0),
        "voiced_share": round(found.voiced_share, 3),
        "held_share": round(found.held_share, 3),
        "syllabic_share": round(found.syllabic_share, 3),
        "unevenness": round(found.unevenness, 3),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
