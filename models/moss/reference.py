"""Reading a reference clip as the codec takes it; run in a helper process, so there is no torch here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soxr

from ..audio import Samples, blocks, probe, to_mono
from ..errors import InputError

MAX_REFERENCE_S = 15.0  # longer or noisy clips are reported to give garbage


def read_reference(path: Path, sample_rate: int, channels: int, least: int) -> Samples:
    """Read a clip as the codec takes it, `[C, S]`.

    One channel is given to all; more channels than the codec has are mixed to one and then given to all.

    Args:
        least: Samples that it has to have at least, one frame.

    Raises:
        InputError: It cannot be read, is too short, too long, or holds NaN.
    """
    given_hz = probe(path).sample_rate
    parts = [_laid_out(block, channels) for block in blocks(path, max_s=MAX_REFERENCE_S)]
    samples = np.concatenate(parts)
    if given_hz != sample_rate:
        samples = soxr.resample(samples, given_hz, sample_rate)
    if len(samples) < least:
        raise InputError(
            f"reference: the clip has {len(samples) / sample_rate:.3f} s; a voice takes "
            f"{least / sample_rate:.2f} s at least, and some seconds to be recognised"
        )
    return np.ascontiguousarray(samples.T, dtype=np.float32)


def _laid_out(block: Samples, channels: int) -> Samples:
    if block.shape[1] == channels:
        return block
    return np.repeat(to_mono(block)[:, None], channels, axis=1)
