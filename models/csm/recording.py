"""Recordings of the context, as the codec hears them. No torch here: it runs in a helper process."""

from __future__ import annotations

from pathlib import Path

from ..audio import Samples, read


def read_recording(path: Path, sample_rate: int, max_s: float) -> Samples:
    """A file of any rate and number of channels as mono samples `[S]` at `sample_rate`.

    Raises:
        InputError: It is missing, damaged, longer than `max_s`, or holds numbers that are not finite.
    """
    return read(path, sample_rate=sample_rate, max_s=max_s)
