"""Writing the finished audio, in a helper process: no torch here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..audio import AudioWriter


def write_audio(
    path: Path, format: str, samples: npt.NDArray[np.float32], from_hz: int, sample_rate: int
) -> float:
    """Write [S] at `from_hz` to a file of `sample_rate`; return the file's length in seconds."""
    with AudioWriter(path, format=format, from_hz=from_hz, sample_rate=sample_rate) as writer:
        writer.write(samples)
    return writer.duration_s
