"""One recording on its way through the card: read, cut into windows, and few of them waiting at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from ..audio import Samples, mono_stream, samples_to_seconds, seconds_to_samples
from ..errors import InputError
from .windows import SAMPLE_RATE_HZ, Window, cut_windows

if TYPE_CHECKING:
    from ..handler import Counts, Run
    from ..place import Engine, Ticket
    from .emission import Heard

_AHEAD = 4  # windows that wait for the card: enough for its next call, and 9 MB
_HEADER_IS_WRONG_BY = 1.1  # at most, and by a second


class Listening:
    """What is heard of a recording; leaving the context closes the file and cancels what still waits.

    Attributes:
        samples: How many were read so far, at `SAMPLE_RATE_HZ`.
        peak: The loudest of them.
        expected_s: How long the recording is by its header, which may be a little wrong.
    """

    def __init__(self, engine: Engine, model: str, audio: Path, *, longest_s: float) -> None:
        """Look at the header.

        Args:
            engine: Has the model.
            model: Its name there.
            audio: The recording.
            longest_s: The most that is read of it.

        Raises:
            InputError: It cannot be read, or is longer.
        """
        self.samples = 0
        self.peak = 0.0
        with ExitStack() as opened:
            stream = mono_stream(audio, sample_rate=SAMPLE_RATE_HZ, max_s=longest_s)
            info, blocks = opened.enter_context(stream)
            self.expected_s = info.duration_s
            if self.expected_s > longest_s:
                raise InputError(
                    f"{model} aligns recordings of up to {longest_s:g} s, and this one has {self.expected_s:.0f} s: split it"
                )
            self._file = opened.pop_all()
        self._windows = cut_windows(self._measured(blocks))
        self._ended = False
        self._engine, self._model = engine, model
        self._waiting: deque[Ticket[Heard]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        while self._waiting:
            self._waiting.popleft().cancel()

    @property
    def duration_s(self) -> float:
        """How long the recording is: exactly, once it is read, and else by its header."""
        return samples_to_seconds(self.samples, SAMPLE_RATE_HZ) if self._ended else self.expected_s

    @property
    def most_samples(self) -> int:
        """More than the recording can have, whatever its header says; known exactly once it is read."""
        if self._ended:
            return self.samples
        return seconds_to_samples(_HEADER_IS_WRONG_BY * self.expected_s + 1, SAMPLE_RATE_HZ)

    def begin(self, run: Run) -> None:
        """Send the first windows to the card, and do not wait for them."""
        while len(self._waiting) < _AHEAD and (window := self._next()) is not None:
            self._send(window)
            run.checkpoint(0.0)

    def finish(self, run: Run, *, share: float) -> list[Heard]:
        """Send the others, and wait for all.

        Args:
            run: Told of the progress.
            share: The progress when all is heard.
        """
        heard: list[Heard] = []
        while self._waiting:
            done = samples_to_seconds(self.samples, SAMPLE_RATE_HZ) / max(self.expected_s, 1e-6)
            heard.append(self._waiting.popleft().wait(_Told(run, share * min(1.0, done))))
            if (window := self._next()) is not None:
                self._send(window)
        return heard

    def _next(self) -> Window | None:
        window = next(self._windows, None)
        self._ended = self._ended or window is None
        return window

    def _send(self, window: Window) -> None:
        self._waiting.append(self._engine.process(self._model, window))

    def _measured(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in blocks:
            self.samples += len(block)
            self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
            yield block


class _Told:
    """A run that is told the recording's progress, whatever that of one window is."""

    def __init__(self, run: Run, progress: float) -> None:
        self.scratch, self.phase = run.scratch, run.phase
        self._run, self._progress = run, progress

    def checkpoint(self, progress: float | None = None, made: Counts | None = None) -> None:
        self._run.checkpoint(self._progress)
