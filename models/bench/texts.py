"""What is said and heard in a run: three texts, and how much each of them is for a model without a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ..audio import Samples, seconds_to_samples
from ..verification.material import SAMPLE_RATE_HZ, syllables


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text of one length.

    Attributes:
        words: Of a job.
        tokens: What a row's prompt has in its place, about as many as a published tokenizer makes of it.
        clip_s: How long a clip is, for models that listen.
    """

    words: str
    tokens: int
    clip_s: float


_SENTENCES = (
    "The morning train was late again, so we walked along the river to the old market.",
    "A woman sold apples there, red ones and yellow ones, and told everybody where they had grown.",
    "Nobody minded the rain; it had been a dry summer, and the fields behind the houses were brown.",
    "When the clock struck nine the shops opened, one after the other, and the street filled with people.",
    "We bought bread, a newspaper and two umbrellas, and went home by the bridge with the broken lamp.",
    "In the evening the water stood high, and the children came to look at it from the wall.",
)

TEXTS: dict[str, Text] = {
    "short": Text(words="Good morning, and welcome to the show.", tokens=12, clip_s=5.0),
    "medium": Text(words=" ".join(_SENTENCES[:2]), tokens=48, clip_s=15.0),
    "long": Text(words=" ".join(_SENTENCES), tokens=144, clip_s=30.0),
}


def clip_of(name: str, folder: Path) -> Path:
    """Write a recording of a text's length for models that listen: vowels that glide, with pauses."""
    path = folder / f"{name}.wav"
    soundfile.write(path, vowels(TEXTS[name].clip_s, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    return path


def vowels(seconds: float, sample_rate: int) -> Samples:
    """Mono samples `[S]`, the same for everybody."""
    once = syllables()
    if sample_rate != SAMPLE_RATE_HZ:
        once = soxr.resample(once, SAMPLE_RATE_HZ, sample_rate)
    count = seconds_to_samples(seconds, sample_rate)
    return np.ascontiguousarray(np.tile(once, -(-count // len(once)))[:count], dtype=np.float32)
