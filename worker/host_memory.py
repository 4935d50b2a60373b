"""The host's memory: how much of it a process has to itself, and whether the kernel has killed for want of it."""

from __future__ import annotations

import time
from pathlib import Path

OOM_KILL_S = 10.0  # a process of many gigabytes takes that long to die


def own_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """What a process has taken for itself, in bytes; 0 where that is not to be known.

    Weights that are mapped from their files do not count: the kernel takes them back when it needs room.
    """
    try:
        lines = (proc / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


class OomWatch:
    """Whether the kernel has just killed a process of this host for want of memory."""

    def __init__(self, path: Path = Path("/proc/vmstat")) -> None:
        self._path = path
        self._count = self._read()
        self._rose = float("-inf")

    def look(self) -> bool:
        """Look at the kernel's counter, which does not say whom it was; call it often."""
        count = self._read()
        if count > self._count:
            self._rose = time.monotonic()
        self._count = count
        return time.monotonic() < self._rose + OOM_KILL_S

    def _read(self) -> int:
        try:
            lines = self._path.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
