"""Reference audio: what a voice is taken from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .. import audio
from ..errors import InputError
from .resampling import resample

Samples = npt.NDArray[np.float32]

LOWEST_RATE_HZ = 8000
LEAST_S = 0.4
LONGEST_S = 60.0

_SILENT = 1e-3  # of full scale, −60 dB


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One recording at the two rates that are needed.

    Attributes:
        samples: At the model's rate [S].
        narrow: At that of the speaker network [S].
    """

    samples: Samples
    narrow: Samples


def read_reference(path: Path, name: str, sample_rate: int, narrow_rate: int) -> Reference:
    """Read a recording, mixed to one channel. It runs in a helper process.

    Args:
        name: The argument that names it, for errors.
        sample_rate: The model's.
        narrow_rate: That of the speaker network.

    Raises:
        InputError: It is no audio, damaged, not finite, silent, too short, too long, or sampled so slowly
            that a voice cannot be heard in it.
    """
    try:
        rate = audio.probe(path).sample_rate
        if rate < LOWEST_RATE_HZ:
            raise InputError(f"it is sampled at {rate} Hz; give {LOWEST_RATE_HZ} Hz or more, better 16000")
        samples = np.concatenate([audio.to_mono(block) for block in audio.blocks(path, max_s=LONGEST_S)])
        if len(samples) < LEAST_S * rate:
            raise InputError(f"it is shorter than {LEAST_S} s; give some seconds of speech")
        if np.abs(samples).max() < _SILENT:
            raise InputError("it is silent; give a recording of speech")
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return Reference(
        samples=resample(samples, rate, sample_rate), narrow=resample(samples, rate, narrow_rate)
    )
