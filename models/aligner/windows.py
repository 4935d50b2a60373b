"""Recordings in windows: 30 s each, heard with 2 s of context on both sides; a shorter recording is one window.

The frames of the context are thrown away, and those of what the last window was filled up with, so that the frames
of all windows together are those of the recording: one for each 20 ms. Window and context are those with which
the published aligner is used; nothing is longer than the encoder was trained on by far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..audio import Samples

SAMPLE_RATE_HZ = 16000
HOP = 320
"""Samples between two frames: the product of the strides of the encoder's convolutions."""

RECEPTIVE = 400
"""Samples that one frame hears."""

FRAME_STEP_S = HOP / SAMPLE_RATE_HZ
WINDOW = 30 * SAMPLE_RATE_HZ
CONTEXT = 2 * SAMPLE_RATE_HZ
LONGEST = WINDOW + 2 * CONTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a recording that is heard in one go.

    Attributes:
        samples: [S] at `SAMPLE_RATE_HZ`, at least `RECEPTIVE`.
        first: The first of its frames that belongs to the recording and to no other window.
        end: Behind the last.
    """

    samples: Samples
    first: int
    end: int


def frames_of(samples: int) -> int:
    """How many frames the encoder makes of so many samples."""
    return max(0, (samples - RECEPTIVE) // HOP + 1)


def frames_in_all(samples: int) -> int:
    """How many frames all windows of a recording give together."""
    return frames_of(samples) if samples < WINDOW else -(-samples // HOP)


def cut_windows(blocks: Iterable[Samples]) -> Iterator[Window]:
    """Cut a recording that arrives in blocks, holding no more of it than a window.

    A recording that is too short for a frame gives no window.
    """
    held = [np.zeros(CONTEXT, np.float32)]  # silence before the beginning
    length, rest = CONTEXT, 0  # of what is held, and how much of it lies behind the context
    whole = True
    for block in blocks:
        held.append(block)
        length += len(block)
        rest += len(block)
        if length > LONGEST:
            joined = np.concatenate(held)
            while len(joined) > LONGEST:
                yield Window(samples=joined[:LONGEST].copy(), first=_context_frames(), end=_last_frame(0))
                joined = joined[WINDOW:]
                rest -= WINDOW
                whole = False
            held, length = [joined], len(joined)
    if not whole or rest >= WINDOW:
        yield from _last_windows(np.concatenate(held), rest)
    elif rest >= RECEPTIVE:
        yield Window(samples=np.concatenate(held)[CONTEXT:], first=0, end=frames_of(rest))


def _last_windows(held: Samples, rest: int) -> Iterator[Window]:
    """The windows of what is left: `rest` samples behind a context."""
    while rest > 0:
        missing = max(0, WINDOW - rest)
        samples = np.zeros(LONGEST, np.float32)
        samples[: min(len(held), LONGEST)] = held[:LONGEST]
        yield Window(samples=samples, first=_context_frames(), end=_last_frame(missing))
        held = held[WINDOW:]
        rest -= WINDOW


def _context_frames() -> int:
    return CONTEXT // HOP


def _last_frame(missing: int) -> int:
    """Behind the last frame of a window that lacks samples; a frame that is there in part counts."""
    return (CONTEXT + WINDOW) // HOP - missing // HOP
