"""Folders for work in progress on this host, and the one edge at which its file system's errors become ours."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import NotFound, StorageFull, StorageUnavailable

DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

# Longer than the longest deadline of a job, a day: no running handler loses its folder.
STALE_S = 26 * 3600
SWEEP_EVERY_S = 3600


class Scratch:
    """A folder full of temporary ones. Those of killed processes go after a day."""

    def __init__(self, root: Path) -> None:
        """Use `root`, which is made if it is not there.

        Raises:
            StorageUnavailable: It cannot be made.
        """
        self.root = root
        self._swept_at = float("-inf")
        with translated("prepared"):
            root.mkdir(mode=0o750, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A fresh folder of the caller's own, removed at the end of the context."""
        with translated("written"):
            self._sweep()
            folder = Path(tempfile.mkdtemp(dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        if time.monotonic() < self._swept_at + SWEEP_EVERY_S:
            return
        self._swept_at = time.monotonic()
        for path in self.root.iterdir():
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime > time.time() - STALE_S:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


@contextlib.contextmanager
def translated(done: str) -> Iterator[None]:
    """Let the operating system's errors become ours, at this one edge."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_IS_FULL:
            raise StorageFull(
                "no space is left for blobs: free some, or set storage_url to a larger disk"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise NotFound(f"{error.filename or 'the file'} is not there") from error
        reason = error.strerror or type(error).__name__
        raise StorageUnavailable(f"a blob could not be {done}: {reason} ({error.filename})") from error
