"""A clip on its way from its file to mel windows. Everything here runs in the helper pool, without torch.

What crosses to a helper and back is picklable: paths, numbers, and the spectra themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import Samples, mono_blocks, samples_to_seconds, seconds_to_samples
from ..errors import InputError
from .spectrum import SAMPLE_RATE_HZ, Mel, log_mel

MAX_AUDIO_S = 4 * 3600.0
MAX_WINDOW_S = 300.0  # the longest that the published model was made for: 7,500 embeddings
CHUNK_SAMPLES = 2 * SAMPLE_RATE_HZ  # windows are cut where chunks of the encoder end
MIN_SAMPLES = 321  # three mel frames: the least that becomes one embedding

_BYTES = np.dtype(np.float32).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a clip that is captioned by itself: samples [start, stop) at 16 kHz."""

    start: int
    stop: int

    @property
    def start_s(self) -> float:
        return samples_to_seconds(self.start, SAMPLE_RATE_HZ)

    @property
    def stop_s(self) -> float:
        return samples_to_seconds(self.stop, SAMPLE_RATE_HZ)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A clip that was read.

    Attributes:
        samples: Its length as mono at 16 kHz.
        mel: The spectrum of the only window; of a longer clip the samples lie in a file instead.
    """

    samples: int
    mel: Mel | None

    @property
    def duration_s(self) -> float:
        return samples_to_seconds(self.samples, SAMPLE_RATE_HZ)


def open_clip(path: Path, spill: Path, window_s: float) -> Clip:
    """Read a clip as mono at 16 kHz, and analyse it at once if one window holds it.

    Args:
        path: Anything that libsndfile reads, of any rate and number of channels.
        spill: A file that exists and is empty. The samples of a clip that one window does not hold go
            there, float32; if somebody removes it meanwhile, reading stops.
        window_s: The longest window, at least two seconds; it is rounded down to whole chunks of two.

    Raises:
        InputError: The audio is unreadable, not finite, too short to be heard or longer than
            `MAX_AUDIO_S`.
    """
    limit = _chunks_in(window_s) * CHUNK_SAMPLES
    held: list[Samples] = []
    samples = 0
    with spill.open("r+b") as file:
        for block in mono_blocks(path, sample_rate=SAMPLE_RATE_HZ, max_s=MAX_AUDIO_S):
            samples += len(block)
            held.append(block)
            if samples > limit:
                for piece in held:
                    piece.tofile(file)
                held.clear()
            if not spill.exists():
                raise InputError("the audio was not read to its end, as nobody waited for it any more")
    if samples < MIN_SAMPLES:
        raise InputError(
            f"the audio is too short to be heard: {1000 * samples / SAMPLE_RATE_HZ:.1f} ms; "
            "send at least a twentieth of a second"
        )
    return Clip(samples=samples, mel=log_mel(np.concatenate(held)) if samples <= limit else None)


def window_mel(spill: Path, window: Window) -> Mel:
    """The spectrum of one window of a clip that `open_clip` left in a file."""
    count = window.stop - window.start
    return log_mel(np.fromfile(spill, np.float32, count=count, offset=window.start * _BYTES))


def windows_of(samples: int, window_s: float) -> list[Window]:
    """Cut a clip into as few windows as `window_s` allows, without gap or overlap.

    They are equal to within a chunk of two seconds, as a rest of a second at the end of a song would get
    a caption as weighty as the song's.
    """
    chunks = -(-samples // CHUNK_SAMPLES)
    count = -(-chunks // _chunks_in(window_s))
    starts = [number * chunks // count * CHUNK_SAMPLES for number in range(count)]
    return [
        Window(start=start, stop=stop) for start, stop in zip(starts, [*starts[1:], samples], strict=True)
    ]


def _chunks_in(window_s: float) -> int:
    return seconds_to_samples(window_s, SAMPLE_RATE_HZ) // CHUNK_SAMPLES
