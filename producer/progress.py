"""The line of progress on a terminal; nothing at all where standard error is none."""

from __future__ import annotations

import sys
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import console

if TYPE_CHECKING:
    from .follower import Figures


class ProgressLine:
    """Shows the figures of a batch while the context lasts."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            self._progress = Progress(
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                console=console.stderr(),
                transient=True,
            )
            self._task = self._progress.add_task("", total=None)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, figures: Figures, refused: int, *, reading: bool) -> None:
        """Bring the line up to date.

        Args:
            figures: Of the batch.
            refused: Lines that became no job.
            reading: Whether more jobs may come.
        """
        if self._progress is None:
            return
        parts = [
            f"{figures.final}/{figures.total}{'+' if reading else ''} jobs",
            f"{figures.failed + refused} failed",
            f"{figures.jobs_per_s:.1f} jobs/s",
            f"{figures.audio_per_s:.1f} audio-s/s",
        ]
        if not reading and figures.left_s is not None:
            parts.append(f"{timedelta(seconds=round(figures.left_s))} left")
        self._progress.update(
            self._task, total=figures.total or None, completed=figures.final, description="  ".join(parts)
        )


class CountLine:
    """Shows a number that grows while the context lasts."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._status: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._status = console.stderr().status(f"0 {self._words}")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, count: int) -> None:
        """Bring the line up to date."""
        if self._status is not None:
            self._status.update(f"{count} {self._words}")
