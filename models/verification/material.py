"""The fixed texts and the fixed audio: the same bytes on every host, so that two reports can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

from ..audio import Samples, probe, seconds_to_samples
from .ports import Material, Text

TEXTS: Mapping[str, Text] = {
    "short": Text(words="The parcel arrived before noon.", language="eng"),
    "medium": Text(
        words="When the rain stopped, the children ran out to look for snails along the garden wall, and their "
        "grandfather counted aloud how many of them they had found.",
        language="eng",
    ),
    "chinese": Text(words="雨停以后，孩子们跑到院子里找蜗牛，爷爷在旁边一只一只地数着。", language="cmn"),
}

SAMPLE_RATE_HZ = 24_000
DURATION_S = 3.0

_FILE = "given.wav"
_GLIDES = ((110.0, 165.0), (196.0, 147.0), (130.0, 220.0))  # from and to, hertz: a syllable each
_FORMANTS = ((700.0, 130.0), (1220.0, 170.0), (2600.0, 250.0))  # of an open vowel, and how wide they are
_HARMONICS = 24
_PAUSE_S = 0.15


def gather(
    folder: Path,
    *,
    text: str | None = None,
    language: str | None = None,
    audio: Path | None = None,
    seed: int = 0,
) -> Material:
    """The fixed material, or what was given in its place.

    Args:
        folder: Where the fixed audio is written.
        text: In place of the fixed texts.
        language: Of `text`, ISO 639-3; told by its letters otherwise.
        audio: In place of the fixed audio.
        seed: Of everything random.

    Raises:
        InputError: The audio cannot be read.
    """
    if audio is None:
        audio = folder / _FILE
        # Floats, as nobody's rounding to 16 bit may come in between.
        soundfile.write(audio, syllables(), SAMPLE_RATE_HZ, subtype="FLOAT")
    else:
        probe(audio)
    texts = TEXTS if text is None else {"given": Text(words=text, language=language or _language_of(text))}
    return Material(texts=texts, audio=audio, seed=seed)


def syllables() -> Samples:
    """Three gliding vowels between pauses, each begun by a burst of noise: [S] at `SAMPLE_RATE_HZ`."""
    random = np.random.default_rng(0)
    pause = np.zeros(seconds_to_samples(_PAUSE_S, SAMPLE_RATE_HZ))
    each = seconds_to_samples(DURATION_S / len(_GLIDES), SAMPLE_RATE_HZ) - len(pause)
    time = np.arange(each) / each
    parts = []
    for low, high in _GLIDES:
        pitch = low + (high - low) * time
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ
        voice = sum(_loudness(n * pitch) * np.sin(n * phase) / n for n in range(1, _HARMONICS + 1))
        burst = random.normal(0, 0.3, each) * np.exp(-40 * time)
        parts += [pause, (0.5 * voice + burst) * np.sin(np.pi * time) ** 0.5]
    whole = np.concatenate(parts)
    scaled: Samples = (0.5 * whole / np.abs(whole).max()).astype(np.float32)
    return scaled


def _loudness(
    hertz: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """How much of a frequency three resonances let through."""
    return sum((1 / (1 + ((hertz - at) / width) ** 2) for at, width in _FORMANTS), np.full_like(hertz, 0.05))


def _language_of(text: str) -> str:
    ideographs = sum("一" <= letter <= "鿿" for letter in text)
    return "cmn" if 2 * ideographs > sum(letter.isalpha() for letter in text) else "eng"
