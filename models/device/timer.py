"""How long the device took: `Timer`."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self


class Timer:
    """The time that the device spends on what is launched inside of a `with` block.

    Leaving the block waits for nothing; `seconds` does. Used by the thread that launches.
    """

    def __init__(self, api: Any | None) -> None:
        """Time by events of the vendor's module `api`, or by the clock where work is done at once."""
        self._api = api
        self._start: Any = None
        self._end: Any = None

    def __enter__(self) -> Self:
        self._start = self._mark()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end = self._mark()

    def ready(self) -> bool:
        """Whether `seconds` would return at once."""
        if self._end is None:
            return False
        return True if self._api is None else bool(self._end.query())

    def seconds(self) -> float:
        """Wait for the device, and return the time between the two ends of the block."""
        if self._end is None:
            raise RuntimeError("the block that was to be timed has not ended")
        if self._api is None:
            return float(self._end - self._start)
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1000

    def _mark(self) -> Any:
        if self._api is None:
            return time.perf_counter()
        event = self._api.Event(enable_timing=True)
        event.record()
        return event
