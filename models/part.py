"""A run as one part of its work sees it: a chunk of a long text, a window of a long recording."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from .handler import Counts, Run


class RunPart:
    """A `Run` whose progress is a share of the whole run's, behind what other parts have made."""

    def __init__(self, run: Run, *, begin: float, share: float, made: Counts | None = None) -> None:
        """Cut a part out of `run`.

        Args:
            run: The whole.
            begin: The whole's progress when this part begins, 0 to 1.
            share: How much of the whole it is, 0 to 1; with 0 its progress is kept to itself.
            made: What the parts before it have made.
        """
        self._run = run
        self._begin, self._share = begin, share
        self._before = made or {}

    @property
    def scratch(self) -> Path:
        return self._run.scratch

    def checkpoint(self, progress: float | None = None, made: Counts | None = None) -> None:
        """See `Run.checkpoint`."""
        if self._share == 0:
            self._run.checkpoint()
            return
        if progress is not None:
            progress = self._begin + self._share * progress
        if made is not None:
            made = {name: self._before.get(name, 0) + count for name, count in made.items()}
        self._run.checkpoint(progress, made)

    def phase(self, name: str) -> AbstractContextManager[None]:
        return self._run.phase(name)
