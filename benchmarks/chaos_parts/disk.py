"""A disk that can be filled: a small tmpfs where one may be mounted, else a folder that refuses to be written to."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

BLOCK = bytes(1024 * 1024)
NEW_NAMESPACE_OF_MOUNTS = 0x00020000  # CLONE_NEWNS of linux/sched.h


class Disk:
    """The disk of the artifacts.

    Attributes:
        folder: Where they go.
        mounted: Whether it is a file system of its own.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir()
        self.folder = folder
        # Root may mount; who may not is no exception to what modes forbid, either.
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0750", "tmpfs", folder]
        self.mounted = _mounts_of_our_own() and _succeeds(mount)
        self._ballast = folder / ".ballast"

    def fill(self) -> None:
        """Leave no room."""
        if self.mounted:
            self._fill_up()
        else:
            self._refuse(0o500)

    def _refuse(self, mode: int) -> None:
        for folder in (self.folder, *self.folder.iterdir()):
            folder.chmod(mode)

    def _fill_up(self) -> None:
        with self._ballast.open("wb", buffering=0) as ballast:
            size = len(BLOCK)
            while size:  # ever smaller pieces, until not even a byte fits
                try:
                    ballast.write(BLOCK[:size])
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def free(self) -> None:
        """Make room again."""
        if self.mounted:
            self._ballast.unlink(missing_ok=True)
        else:
            self._refuse(0o750)

    def close(self) -> None:
        """Take the file system away."""
        self.free()
        if self.mounted:
            _succeeds(["umount", "-l", self.folder])


def _mounts_of_our_own() -> bool:
    """Let this process and those that it starts have mounts that end with them, however that comes about."""
    if os.geteuid() != 0 or ctypes.CDLL(None).unshare(NEW_NAMESPACE_OF_MOUNTS) != 0:
        return False
    return _succeeds(["mount", "--make-rprivate", "/"])


def _succeeds(command: list[str | Path]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False
