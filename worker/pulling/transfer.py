"""One file from a hub to the disk: resumed where it broke off, and compared with what the hub lists."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DownloadDamaged, HubRefused, HubUnreachable, NoRoom, PullFailed
from .hub import SLOW_S, RemoteFile, Source, plain

CHUNK = 1024 * 1024
PIECE = 16 * 1024
"""What is written at once. A connection that breaks off takes the beginning of a piece with it."""

WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Between attempts that brought nothing; one that brings something begins anew."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Advance = Callable[[int], None]
"""Is told how many bytes more there are; fewer, where something has to be fetched again."""


class Digest:
    """The two checksums that hubs tell of a file."""

    def __init__(self, size: int | None) -> None:
        """Begin a file; git's checksum begins with its size."""
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"" if size is None else b"blob %d\0" % size, usedforsecurity=False)

    def update(self, content: bytes) -> None:
        self._sha256.update(content)
        self._git.update(content)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def trouble(self, file: RemoteFile) -> str | None:
        """What is not as it is listed."""
        if file.sha256 is not None and file.sha256 != self.sha256:
            return f"has SHA-256 {self.sha256}, not {file.sha256}"
        if file.sha256 is None and file.git_sha1 is not None and file.bytes is not None:
            if file.git_sha1 != self._git.hexdigest():
                return f"has git's checksum {self._git.hexdigest()}, not {file.git_sha1}"
        return None


def digest_of(path: Path) -> Digest:
    """The checksums of a file on the disk."""
    digest = Digest(path.stat().st_size)
    with path.open("rb") as stream:
        while content := stream.read(CHUNK):
            digest.update(content)
    return digest


def is_listed(path: Path, file: RemoteFile) -> str | None:
    """The SHA-256 of a file on the disk, if it is the one that is listed; else `None`."""
    if path.is_symlink() or not path.is_file() or file.bytes not in (None, path.stat().st_size):
        return None
    digest = digest_of(path)
    return digest.sha256 if digest.trouble(file) is None else None


class _Broken(Exception):
    """An attempt ended early; another may go on."""


class _Part:
    """The beginning of a file, on the disk, with its checksums."""

    def __init__(self, file: RemoteFile, stream: BinaryIO, advance: Advance) -> None:
        """Take up what an earlier try left, as far as it can be the beginning of `file`."""
        self.file = file
        self.stream = stream
        self._advance = advance
        self._digest = Digest(file.bytes)
        self.size = 0
        if file.bytes is None or os.fstat(stream.fileno()).st_size > file.bytes:
            stream.truncate(0)
        while content := stream.read(CHUNK):
            self._count(content)

    @property
    def whole(self) -> bool:
        return self.size == self.file.bytes

    @property
    def sha256(self) -> str:
        return self._digest.sha256

    def trouble(self) -> str | None:
        return self._digest.trouble(self.file)

    def add(self, content: bytes) -> None:
        if self.file.bytes is not None and self.size + len(content) > self.file.bytes:
            raise DownloadDamaged(f"is longer than the {self.file.bytes} bytes that are listed")
        self.stream.write(content)
        self._count(content)

    def begin_anew(self) -> None:
        self._advance(-self.size)
        self.stream.seek(0)
        self.stream.truncate(0)
        self._digest, self.size = Digest(self.file.bytes), 0

    def _count(self, content: bytes) -> None:
        self._digest.update(content)
        self.size += len(content)
        self._advance(len(content))


class Transfer:
    """Fetches files, one after the other."""

    def __init__(self, session: Any, advance: Advance, *, waits_s: Sequence[float] = WAITS_S) -> None:
        """Prepare.

        Args:
            session: Of `requests`: it follows redirections and drops the token of the first host then.
            advance: Told of every byte.
            waits_s: So many attempts in a row may bring nothing, with such pauses behind them.
        """
        self._session = session
        self._advance = advance
        self._waits_s = waits_s

    def fetch(self, source: Source, file: RemoteFile, target: Path) -> str:
        """Fetch a file whole, beginning with what an earlier try left in `TARGET.part`.

        Returns:
            Its SHA-256.

        Raises:
            HubUnreachable: The connection broke again and again; what came is kept.
            HubRefused: The hub does not give it.
            DownloadDamaged: It is not what is listed, also when fetched from the start.
            NoRoom: The disk is full.
        """
        if (known := is_listed(target, file)) is not None:
            self._advance(target.stat().st_size)
            return known
        part = target.with_name(f"{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            begun = part.exists()
            try:
                return self._complete(source, file, part, target)
            except DownloadDamaged:
                if not begun:  # it came in one piece, and would come so again
                    raise
                return self._complete(source, file, part, target)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise NoRoom(
                    f"{part} cannot grow ({error.strerror}); free some space: the same command goes on"
                ) from error
            raise PullFailed(f"{part} cannot be written ({error})") from error

    def _complete(self, source: Source, file: RemoteFile, part: Path, target: Path) -> str:
        # Not through a link: it might lead out of the folder.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "r+b") as stream:
            gathered = _Part(file, stream, self._advance)
            try:
                self._fill(source, gathered)
                trouble = gathered.trouble()
            except DownloadDamaged as error:
                trouble = str(error)
            if trouble is not None:
                gathered.begin_anew()
            stream.flush()
            os.fsync(stream.fileno())
        if trouble is not None:
            part.unlink()
            raise DownloadDamaged(
                f"{file.path} {trouble}; it was removed. The same command fetches it again; if that fails "
                "alike, the hub, or something on the way, gives wrong bytes"
            )
        part.replace(target)
        return gathered.sha256

    def _fill(self, source: Source, part: _Part) -> None:
        """Bring a part to the size of its file, in as many attempts as bring something."""
        waits, farthest = iter(self._waits_s), part.size
        while not part.whole:
            try:
                self._attempt(source, part)
                if part.file.bytes in (None, part.size):
                    return
                why = f"it ended after {part.size} of {part.file.bytes} bytes"
            except _Broken as broken:
                why = str(broken)
            if part.size > farthest:  # what had to begin anew brings nothing before it is here again
                waits, farthest = iter(self._waits_s), part.size
            wait_s = next(waits, None)
            if wait_s is None:
                part.stream.flush()
                raise HubUnreachable(f"{part.file.path} cannot be fetched ({why})")
            time.sleep(wait_s)

    def _attempt(self, source: Source, part: _Part) -> None:
        """Ask once for what is lacking.

        Raises:
            _Broken: The answer broke off, or is none.
        """
        # What is compressed on the way has other sizes than those that are listed.
        headers = {**source.headers, "Accept-Encoding": "identity"}
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
        try:
            with self._session.get(source.url, headers=headers, stream=True, timeout=SLOW_S) as answer:
                _check_answer(answer, part)
                for content in answer.iter_content(PIECE):
                    part.add(content)
        except _of_the_network() as error:
            raise _Broken(f"{type(error).__name__}: {plain(error)}") from error


def _check_answer(answer: Any, part: _Part) -> None:
    """See that an answer is what goes on where the part ends; where it is the whole, begin anew."""
    status = answer.status_code
    if status == 206:
        if not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {part.size}-"):
            raise _Broken("the hub gave another part of it than it was asked for")
    elif status == 200:
        if part.size:
            part.begin_anew()
    elif status == 416:
        part.begin_anew()
        raise _Broken("the hub does not give the rest of it")
    elif status == 429 or status >= 500:
        raise _Broken(f"status {status}")
    else:
        hint = "; the terms of the model may have to be accepted on its page" if status in (401, 403) else ""
        raise HubRefused(f"the hub refuses {part.file.path} with status {status}{hint}")


def _of_the_network() -> tuple[type[Exception], ...]:
    """What breaks off an answer. All of it is an `OSError` too, as is a full disk."""
    import requests

    return (requests.RequestException,)
