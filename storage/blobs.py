"""Bytes by the hash of their content: input audio and everything that jobs make.

`BlobStore` is the port and `open_blobs` chooses: `S3BlobStore` of `s3.py` keeps the bytes in a bucket, and
`LocalBlobStore` in a folder, which may lie on a network:

    root/ab/abcd…        a blob, named after its SHA-256, read-only
    root/.scratch/       unfinished files and the folders in which handlers work
    root/.aside/         blobs on their way out

Who may delete what is decided by the collector. What every store promises it: a blob that somebody put
again after a given moment is not deleted as older than that moment, however the two interleave. The
clock is that of the store: here the one that stamps the files, there the S3 server's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from .errors import NotFound, SettingsError, StorageUnavailable
from .scratch import Scratch, translated
from .settings import Settings, masked

CHUNK_BYTES = 1024 * 1024

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FAN_OUT = re.compile(r"[0-9a-f]{2}")
_SCRATCH = ".scratch"
_ASIDE = ".aside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """What was stored: the hash is the name."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob as the store finds it. `modified` is when it was last put, in seconds since 1970."""

    sha256: str
    size: int
    modified: float


class BlobStore(Protocol):
    """Where bytes are kept. `tests/storage/blob_contract.py` is the suite that every store passes.

    All methods raise `StorageUnavailable` when the store does not answer; those that take a hash
    raise `NotFound` for one that is not stored or is no hash at all. Safe between threads.
    """

    def put(self, path: Path, *, move: bool = True) -> Blob:
        """Store the file's bytes, or refresh the blob that has them already.

        When this returns, the blob is durable, and as young as the moment of the call.

        Args:
            path: A file of the caller. Moved in by default; it is gone afterwards, also when its
                bytes were there before.
            move: Whether the file may be taken; else it is copied and left alone.

        Raises:
            StorageFull: There is no room; nothing half-written stays, and the file is untouched.
        """

    def open(self, sha256: str) -> BinaryIO:
        """Open the blob as a stream, from its beginning; it can seek.

        A stream outlives the blob as far as the store can see to it: in a folder always, in a bucket
        if the blob is small, and else reading on raises `NotFound`.
        """

    def fetch(self, sha256: str) -> AbstractContextManager[Path]:
        """Have the blob as a local file for the length of the context. It must not be written to."""

    def delete(self, sha256: str, *, older_than: float | None = None) -> bool:
        """Remove the blob unless it was put at or after `older_than`, in seconds since 1970.

        Returns:
            Whether it was removed; not so if it was not there.
        """

    def list(self) -> Iterator[StoredBlob]:
        """Stream over all blobs, in no order. Those put or deleted meanwhile may or may not appear."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A fresh folder on this host, of the caller's own, from which `put` moves at the least cost.

        It is removed at the end of the context. Those of killed processes go after a day.
        """


class LocalBlobStore:
    """A `BlobStore` in a folder, shared by threads, processes and, over a network, hosts."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with translated("prepared"):
            for folder in (self.root, self.root / _ASIDE):
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._scratch = Scratch(self.root / _SCRATCH)  # the same disk: a file is moved in, not copied

    def put(self, path: Path, *, move: bool = True) -> Blob:
        with translated("written"):
            with open_regular(path) as source:
                blob = digest(source)
                if not self._refresh(blob):
                    if move and os.fstat(source.fileno()).st_dev == self.root.stat().st_dev:
                        self._settle(source.fileno(), path, blob.sha256)
                        return blob
                    source.seek(0)
                    blob = self._copy(source)
            if move:
                path.unlink()
        return blob

    def open(self, sha256: str) -> BinaryIO:
        with translated("read"):
            return open_regular(self._find(sha256))

    @contextlib.contextmanager
    def fetch(self, sha256: str) -> Iterator[Path]:
        with translated("read"):
            path = self._find(sha256)
        yield path

    def delete(self, sha256: str, *, older_than: float | None = None) -> bool:
        path = self._path(sha256)
        # A name of its own: two collectors must not take each other's file for theirs.
        aside = self.root / _ASIDE / f"{sha256}.{secrets.token_hex(4)}"
        with translated("deleted"), contextlib.suppress(FileNotFoundError):
            if older_than is not None and path.lstat().st_mtime >= older_than:
                return False
            # A writer may put the blob between that look and an unlink, which goes by name and would
            # take the fresh one. After the rename a writer finds nothing and brings its own bytes; one
            # that came before the rename has made this very file young, and it is put back.
            path.rename(aside)
            if older_than is not None and _modified(aside) >= older_than:
                self._put_back(aside)
                return False
            aside.unlink()
            return True
        return False

    def list(self) -> Iterator[StoredBlob]:
        with translated("listed"):
            for aside in self._asides():  # left by processes that were killed in `delete`
                self._put_back(aside)
            for folder in _folders(self.root):
                for entry in _entries(folder):
                    if self._belongs(entry):
                        with contextlib.suppress(FileNotFoundError):
                            found = entry.stat(follow_symlinks=False)
                            yield StoredBlob(sha256=entry.name, size=found.st_size, modified=found.st_mtime)

    def verify(self, sha256: str) -> bool:
        """Whether the bytes still have the hash that they are named after."""
        with translated("read"), self.open(sha256) as stored:
            return digest(stored).sha256 == sha256

    def scratch(self) -> AbstractContextManager[Path]:
        return self._scratch.folder()

    def _path(self, sha256: str) -> Path:
        folder = self.root / checked(sha256)[:2]
        if folder.is_symlink():  # whoever placed it could lead us to any file of the host
            raise StorageUnavailable(f"{folder} is a link, which the blob store does not follow; remove it")
        return folder / sha256

    def _asides(self, sha256: str = "") -> Iterator[Path]:
        for entry in _entries(self.root / _ASIDE):
            if entry.name.startswith(sha256) and is_sha256(entry.name.partition(".")[0]):
                yield Path(entry.path)

    def _belongs(self, entry: os.DirEntry[str]) -> bool:
        return is_sha256(entry.name) and Path(entry.path) == self._path(entry.name)

    def _find(self, sha256: str) -> Path:
        path = self._path(sha256)
        if not os.path.lexists(path):
            # `delete` may have it aside for a moment, only to find that it is wanted after all.
            for aside in self._asides(sha256):
                self._put_back(aside)
            if not os.path.lexists(path):
                raise NotFound(f"no blob {sha256} is stored")
        return path

    def _put_back(self, aside: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            with contextlib.suppress(FileExistsError):
                os.link(aside, self._path(aside.name.partition(".")[0]), follow_symlinks=False)
            aside.unlink()

    def _refresh(self, blob: Blob) -> bool:
        """Make a stored blob young; False if there is none that can be kept as it is."""
        path = self._path(blob.sha256)
        try:
            os.utime(path, follow_symlinks=False)
            # Only now look: a file that `delete` took aside meanwhile does not count as refreshed.
            with open_regular(path) as stored:
                # A file cut short by a crash of the host is written anew.
                return os.fstat(stored.fileno()).st_size == blob.size
        except (FileNotFoundError, PermissionError):
            return False

    def _copy(self, source: BinaryIO) -> Blob:
        handle, name = tempfile.mkstemp(dir=self._scratch.root)
        try:
            with os.fdopen(handle, "wb") as target:
                # Hashed again while it is copied: a file of the user may have changed meanwhile.
                blob = digest(source, target)
                target.flush()
                self._settle(target.fileno(), Path(name), blob.sha256)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return blob

    def _settle(self, descriptor: int, path: Path, sha256: str) -> None:
        """Give a complete file its place and name, durably."""
        target = self._path(sha256)
        with contextlib.suppress(FileExistsError):
            target.parent.mkdir(mode=0o750)
            _sync_folder(self.root)
        os.utime(descriptor)  # a file that is moved in may be older than the grace
        os.fchmod(descriptor, 0o440)
        os.fsync(descriptor)
        path.rename(target)
        _sync_folder(target.parent)


def open_blobs(settings: Settings) -> BlobStore:
    """The store that the settings name.

    Raises:
        SettingsError: `storage_url` is of a kind that is not supported, or needs what is not installed.
        StorageUnavailable: A folder cannot be made.
    """
    parts = urlsplit(settings.storage_url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return LocalBlobStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        # Brings the client, which producers and workers without a bucket do without.
        from .s3 import open_bucket

        return open_bucket(settings.storage_url, settings.state_dir / "scratch")
    raise SettingsError(
        f"storage_url = {masked(settings.storage_url)} cannot be used; "
        "write file:///FOLDER or s3://BUCKET/PREFIX"
    )


def is_sha256(name: str) -> bool:
    """Whether that could be the name of a blob."""
    return _SHA256.fullmatch(name) is not None


def checked(sha256: str) -> str:
    """The name of a blob, unchanged.

    Raises:
        NotFound: It is no such name; perhaps it leads out of the store.
    """
    if not is_sha256(sha256):
        raise NotFound("that is not the SHA-256 of a blob: it has 64 digits from 0 to 9 and a to f")
    return sha256


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read that is no link, device or pipe."""
    # Not blocking: a pipe without a writer would hang in `open`.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StorageUnavailable(f"{path} is no file: the blob store takes and gives files only")
    return os.fdopen(descriptor, "rb")


def _modified(path: Path) -> float:
    # `open`, since a network file system may answer `stat` from a cache of some seconds.
    with open_regular(path) as file:
        return os.fstat(file.fileno()).st_mtime


def digest(source: BinaryIO, target: BinaryIO | None = None) -> Blob:
    """Hash the rest of the stream, copying it to `target` if there is one."""
    sha256, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        sha256.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return Blob(sha256=sha256.hexdigest(), size=size)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def _folders(folder: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        if _FAN_OUT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)
