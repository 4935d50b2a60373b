"""How much of a codec's work fits into a time, learned from the calls before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_FIRST = 64  # frames of the first call, of which nothing is known
_CAUTION = 0.5  # how far one call moves the estimate


@dataclass(slots=True)
class _Call:
    affordable: int
    frames: int = 0

    def spent(self, frames: int) -> None:
        """So many frames, padding included, are computed in this call."""
        self.frames += frames


class Pace:
    """Keeps an estimate of the time of one frame. One thread only."""

    def __init__(self, *, least: int, most: int) -> None:
        """A call never affords fewer frames than `least`, nor more than `most`."""
        self._least = least
        self._most = most
        self._frame_s: float | None = None

    @contextmanager
    def timed(self, budget_s: float) -> Iterator[_Call]:
        """Time the block, which ends when its results are on the host."""
        affordable = _FIRST if self._frame_s is None else int(budget_s / self._frame_s)
        call = _Call(max(self._least, min(self._most, affordable)))
        begun = time.perf_counter()
        yield call
        if call.frames:
            measured = (time.perf_counter() - begun) / call.frames
            known = measured if self._frame_s is None else self._frame_s
            self._frame_s = known + _CAUTION * (measured - known)
