"""The folder of an export: one export at a time, every file whole or not there at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from soundmill.producer.errors import NotSaved

UNFINISHED = ".soundmill-"
CHUNK_BYTES = 1024 * 1024
# FAT keeps times in steps of two seconds.
TIME_SLACK_S = 2.0


class Target:
    """A folder that is written to; made if it is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modes = 0o666 & ~_umask()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other exports out of the folder.

        Raises:
            NotSaved: Another one writes to it, or it cannot be made.
        """
        with _told(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise NotSaved(f"another export writes to {self.root}; wait for its end") from error
            self.sweep(self.root)
            yield
        finally:
            os.close(descriptor)

    def folder(self, name: str) -> Path:
        """A folder in it, without what a killed export left unfinished there."""
        path = self.root / name
        with _told(path):
            path.mkdir(exist_ok=True)
        self.sweep(path)
        return path

    def sweep(self, folder: Path) -> None:
        for entry in os.scandir(folder):
            if entry.name.startswith(UNFINISHED) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    Path(entry.path).unlink()

    def has(self, path: Path, size: int, time_s: float) -> bool:
        """Whether a file is there already, by its size and time, as `copy` leaves them."""
        try:
            found = path.lstat()
        except OSError:
            return False
        return found.st_size == size and abs(found.st_mtime - time_s) <= TIME_SLACK_S

    def copy(self, source: BinaryIO, path: Path, time_s: float) -> None:
        """Write a file with a given time of change; one that is there is replaced.

        Raises:
            NotSaved: It could not be written; nothing of it stays.
        """
        with self._unfinished(path) as (handle, name):
            with os.fdopen(handle, "wb") as file:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
            os.utime(name, (time_s, time_s))

    @contextmanager
    def lines(self, name: str) -> Iterator[Lines]:
        """A JSON Lines file that appears under its name at the end of the context.

        Raises:
            NotSaved: It could not be written; what was there before stays.
        """
        with self.text(name) as file:
            yield Lines(file, self.root / name)

    @contextmanager
    def text(self, name: str) -> Iterator[TextIO]:
        """A text that is written piece by piece, and appears under its name at the end of the context.

        Raises:
            NotSaved: It could not be written; what was there before stays.
        """
        with self._unfinished(self.root / name) as (handle, _):
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                yield file

    def write(self, name: str, text: str) -> None:
        """A whole text.

        Raises:
            NotSaved: It could not be written; what was there before stays.
        """
        with self.text(name) as file:
            file.write(text)

    @contextmanager
    def _unfinished(self, path: Path) -> Iterator[tuple[int, Path]]:
        """A file beside `path` that takes its place at the end, and is removed after an exception."""
        with _told(path):
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
            try:
                yield handle, Path(name)
                # mkstemp makes it private; a file that was asked for has the usual rights.
                Path(name).chmod(self._modes)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise


class Lines:
    """Writes objects, one to a line."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file = file
        self._path = path

    def add(self, value: Mapping[str, Any]) -> None:
        with _told(self._path):
            self._file.write(json.dumps(value, ensure_ascii=False) + "\n")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Let the operating system's errors become ours, with the remedy."""
    try:
        yield
    except OSError as error:
        remedy = "; run the same command again, which goes on from here"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "; free some, then run the same command again, which goes on from here"
        reason = error.strerror or type(error).__name__
        raise NotSaved(f"{path} cannot be written: {reason}{remedy}") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
