"""The pulse of a card's process: when its work last moved, for the watchdog outside and the leases.

The watchdog lives in the supervisor, since a thread in here is dead while a driver holds the GIL.
The two share eight bytes: the moment on the monotonic clock, which all processes of a host have in
common, from which on the process counts as stuck.
"""

from __future__ import annotations

import math
import mmap
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LAYOUT = struct.Struct("=d")


class Pulse:
    """Written by the card's process; safe between threads.

    A handler that runs counts as stuck when its last beat is longer ago than its phase allows. The
    process is stuck when any of its handlers is.
    """

    def __init__(self, descriptor: int | None) -> None:
        """Write to the file that the supervisor opened; `None` keeps it to the process."""
        self._lock = threading.Lock()
        self._stuck_at: dict[object, float] = {}
        self._limits: dict[object, float] = {}
        self._shared = mmap.mmap(descriptor, _LAYOUT.size) if descriptor is not None else None
        self._publish()

    @contextmanager
    def watching(self, who: object, limit_s: float) -> Iterator[None]:
        """Watch one handler until the block ends.

        Args:
            who: Its key for `beat`.
            limit_s: How long it may stay silent.
        """
        self.set_limit(who, limit_s)
        try:
            yield
        finally:
            with self._lock:
                self._stuck_at.pop(who, None)
                self._limits.pop(who, None)
                self._publish()

    def set_limit(self, who: object, limit_s: float) -> None:
        """Begin a phase: a beat, and another limit from now on."""
        with self._lock:
            self._limits[who] = limit_s
            self._stuck_at[who] = time.monotonic() + limit_s
            self._publish()

    def beat(self, who: object) -> None:
        """The handler moved."""
        with self._lock:
            self._stuck_at[who] = time.monotonic() + self._limits[who]
            self._publish()

    def stuck(self, who: object) -> bool:
        """Whether this handler has been silent for too long."""
        with self._lock:
            return time.monotonic() > self._stuck_at.get(who, math.inf)

    def _publish(self) -> None:
        if self._shared is not None:
            _LAYOUT.pack_into(self._shared, 0, min(self._stuck_at.values(), default=math.inf))


class PulseReader:
    """The supervisor's end: creates the file and reads it.

    The file has no name: a second supervisor that tries for the same card must not find it.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as its owner
        self._file.write(_LAYOUT.pack(math.inf))
        self._file.flush()
        self._shared = mmap.mmap(self._file.fileno(), _LAYOUT.size)

    @property
    def descriptor(self) -> int:
        """What the child is to inherit."""
        return self._file.fileno()

    def stuck_at(self) -> float:
        """The moment, on the monotonic clock, from which on the process counts as stuck."""
        return float(_LAYOUT.unpack_from(self._shared, 0)[0])

    def reset(self) -> None:
        """Forget what a former process wrote."""
        _LAYOUT.pack_into(self._shared, 0, math.inf)

    def close(self) -> None:
        """Give the memory back."""
        self._shared.close()
        self._file.close()
