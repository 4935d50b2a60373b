"""The memory of a device, and of the host where the processor is the device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory of a card at one moment, in bytes.

    Attributes:
        free: What the driver has to give; other processes on the card count.
        total: Of the card.
        reserved: What this process holds, its allocator's cache included.
        allocated: What its tensors take of that.
    """

    free: int
    total: int
    reserved: int
    allocated: int

    @property
    def usable(self) -> int:
        """What new tensors of this process can take, fragmentation permitting.

        The driver counts the allocator's cache as used, but the allocator gives it out again.
        `allocated` alone is memory in use, which is sometimes mistaken for memory that is free.
        """
        return self.free + self.reserved - self.allocated


def host_memory() -> tuple[int, int]:
    """The free and the total bytes of this host, or of the container's limit where that is less."""
    lines = dict(line.split(":", 1) for line in (_PROC / "meminfo").read_text().splitlines())
    free, total = (1024 * int(lines[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    limit = _number(_CGROUP / "memory.max")
    if limit is None or limit >= total:
        return free, total
    # Files that were read and not used since are dropped when memory is needed.
    used = (_number(_CGROUP / "memory.current") or 0) - _inactive_files()
    return max(min(free, limit - used), 0), limit


def _inactive_files() -> int:
    try:
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is no limit: `max`, or no such file
        return None


def resident() -> int:
    """The bytes of this process that are in memory now."""
    pages = int((_PROC / "self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def resident_peak() -> int:
    """The most bytes of this process that were in memory since `forget_resident_peak`."""
    lines = (_PROC / "self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def forget_resident_peak() -> None:
    """Let `resident_peak` count from now on."""
    try:
        (_PROC / "self/clear_refs").write_text("5")  # see proc(5)
    except OSError:  # forbidden in some containers: the peak is that of the whole life then
        return
