"""Blobs in a bucket of an S3 server.

    PREFIX/abcd…/0f3c…        a blob: a folder named after its SHA-256, in it one object with its bytes

S3 has neither a rename nor an unlink that looks first, and a DELETE that was delayed on its way takes
whatever has its key by then. So no key is ever written twice: each put gives the blob an object with a key
of its own, and what has been judged old cannot become young again.

    put      1. list the blob's objects
             2. none: upload the bytes; else copy one inside the server          under a fresh key
             3. if there were others, or may be: list, delete all but the youngest
    delete   1. list the blob's objects
             2. if one is young: nothing; else delete those that were listed

What that promises, of a server whose listings show whatever was written before them, as AWS says of S3
(other servers must be asked):

- A blob that was put at or after a moment is not deleted as older than it. Its put wrote an object that is
  as young as that moment. `delete` either saw it and spared the blob, or did not and deletes others only.
  Step 3 deletes it only in favour of a younger one.
- No request that is repeated, or comes late, does harm. An upload in one request asks the server not to
  overwrite (`If-None-Match: *`); nothing depends on that, since many servers do not know it.
- An object is seen whole or not at all, and with the bytes of its name: what is uploaded is hashed on its
  way, what is fetched once more.

And what it does not:

- Ages are the server's, in whole seconds; the collector's cutoff is the job table's. The two clocks may
  differ by the slack between `max_deadline_s` and `artifact_grace_s`, two hours by default.
- Two who put the same new bytes at once may store them twice, until they are put again or collected.
- The parts of an upload whose process was killed stay, unseen, until a lifecycle rule of the bucket
  aborts them (`AbortIncompleteMultipartUpload`); so do old versions where the bucket keeps versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from .blobs import CHUNK_BYTES, Blob, StoredBlob, checked, digest, open_regular
from .bucket import PART_BYTES, Bucket, Stored
from .errors import NotFound, SettingsError, StorageUnavailable
from .scratch import Scratch, translated
from .settings import masked

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger(__name__)

READ_BYTES = 8 * 1024**2
# S3's limit for a copy in one request. A larger blob is uploaded anew.
COPY_BYTES = 5 * 1024**3
# S3 says when an object was written in whole seconds.
RESOLUTION_S = 1.0
# What was written this long ago is young to everybody, whatever the difference of the clocks.
YOUNG_S = 2 * RESOLUTION_S
# How often a reader looks again for a blob that others refresh at this very moment.
LOOKS = 5


class S3BlobStore:
    """A `BlobStore` in a bucket, shared by threads, processes and hosts."""

    def __init__(self, bucket: Bucket, scratch: Scratch) -> None:
        self._bucket = bucket
        self._scratch = scratch

    def put(self, path: Path, *, move: bool = True) -> Blob:
        with translated("written"):
            with open_regular(path) as source:
                blob = digest(source)
                before = self._objects(blob.sha256)
                if not self._refresh(before, blob):
                    source.seek(0)
                    self._upload(source, blob, _fresh_key(blob), path)
                # An upload of many parts takes long enough for somebody to do the same meanwhile.
                if before or blob.size > PART_BYTES:
                    self._tidy(blob.sha256)
            if move:
                path.unlink()
        return blob

    def open(self, sha256: str) -> BinaryIO:
        return io.BufferedReader(_Reader(self, checked(sha256)))

    @contextlib.contextmanager
    def fetch(self, sha256: str) -> Iterator[Path]:
        with self._scratch.folder() as folder:
            path = folder / checked(sha256)
            with translated("read"), self.open(sha256) as source, path.open("wb") as target:
                found = digest(source, target)
            if found.sha256 != sha256:
                raise StorageUnavailable(
                    f"the bytes of blob {sha256} in the bucket are damaged: delete it there and submit it again"
                )
            path.chmod(0o440)
            yield path

    def delete(self, sha256: str, *, older_than: float | None = None) -> bool:
        found = self._objects(sha256)
        if older_than is not None and any(item.modified + RESOLUTION_S >= older_than for item in found):
            return False
        if found:
            self._bucket.delete([item.key for item in found])
        return bool(found)

    def list(self) -> Iterator[StoredBlob]:
        named = (item for item in self._bucket.objects() if _SHAPE.fullmatch(item.key))
        for sha256, items in groupby(named, key=lambda item: item.key.partition("/")[0]):
            youngest = max(items, key=_age)
            yield StoredBlob(sha256=sha256, size=youngest.size, modified=youngest.modified)

    def scratch(self) -> AbstractContextManager[Path]:
        return self._scratch.folder()

    def find(self, sha256: str) -> Stored:
        """The object that has a blob's bytes.

        Raises:
            NotFound: There is none.
        """
        found = self._objects(sha256)
        if not found:
            raise NotFound(f"no blob {sha256} is stored")
        return max(found, key=_age)

    def read(self, item: Stored, start: int) -> tuple[Stored, bytes]:
        """Up to `READ_BYTES` of a blob.

        Returns:
            The bytes, and the object that they are from: another one if that was replaced meanwhile.

        Raises:
            NotFound: The blob is gone.
        """
        for _ in range(LOOKS):
            end = min(start + READ_BYTES, item.size)
            try:
                part = self._bucket.read(item.key, start, end, size=item.size) if end > start else b""
            except NotFound:
                item = self.find(item.key.partition("/")[0])
            else:
                return item, part
        raise StorageUnavailable("a blob was replaced each time it was about to be read; try again")

    def _objects(self, sha256: str) -> Sequence[Stored]:
        return [item for item in self._bucket.objects(checked(sha256)) if _SHAPE.fullmatch(item.key)]

    def _refresh(self, before: Sequence[Stored], blob: Blob) -> bool:
        """Copy a blob inside the server, so that it is young; False if that cannot be done."""
        whole = [item for item in before if item.size == blob.size]
        if not whole or blob.size > COPY_BYTES:
            return False
        source = max(whole, key=_age)
        try:
            self._bucket.copy(source.key, _fresh_key(blob))
        except NotFound:  # collected, or replaced, since it was listed; we have its bytes
            return False
        if time.time() - source.modified < YOUNG_S:
            return True
        # S3 makes a copy as young as any object; a server on top of files may keep the file's own time.
        return any(item.modified > source.modified for item in self._objects(blob.sha256))

    def _upload(self, source: BinaryIO, blob: Blob, key: str, path: Path) -> None:
        if blob.size <= PART_BYTES:
            self._bucket.put(key, b"".join(_hashed(source, blob, path)))
            return
        try:
            self._bucket.put_parts(key, _hashed(source, blob, path))
        except StorageUnavailable:
            # Perhaps only the last answer was lost, and the parts had been put together. Then the client
            # repeats its request and is told that there is no such upload. The key is ours alone.
            if not any(item.key == key for item in self._objects(blob.sha256)):
                raise

    def _tidy(self, sha256: str) -> None:
        try:
            found = sorted(self._objects(sha256), key=_age)
            if found[1:]:
                self._bucket.delete([item.key for item in found[:-1]])
        except StorageUnavailable:
            # The blob is stored; that it is so twice costs space until it is next put or collected.
            logger.info("a blob's older object stays for now", exc_info=True)


class _Reader(io.RawIOBase):
    """A blob as a file, read in large ranges, of which the last one is kept."""

    def __init__(self, store: S3BlobStore, sha256: str) -> None:
        self._store = store
        self._item = store.find(sha256)
        self._at = 0
        # At once: so a small blob is read whole, whatever becomes of it, and a missing one is known now.
        self._range_at, self._range = 0, b""
        self._load()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._item.size}[whence]
        if origin + offset < 0:
            raise ValueError("cannot seek to before the beginning")
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._at >= self._item.size:
            return 0
        if not self._range_at <= self._at < self._range_at + len(self._range):
            self._load()
        offset = self._at - self._range_at
        part = self._range[offset : offset + len(view)]
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _load(self) -> None:
        self._item, self._range = self._store.read(self._item, self._at)
        self._range_at = self._at


def open_bucket(url: str, scratch: Path) -> S3BlobStore:
    """The store at s3://BUCKET/PREFIX; the bucket is there already, and nothing is asked of it yet.

    Args:
        url: The address; the prefix may hold escaped characters.
        scratch: A folder of this host, for what is being made and what was fetched.

    Raises:
        SettingsError: The address cannot be used, or obstore is not installed.
        StorageUnavailable: The folder cannot be made.
    """
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    if "@" in parts.netloc:
        raise SettingsError(
            f"storage_url = {masked(url)} must not hold credentials: "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment or not _PREFIX.fullmatch(prefix):
        raise SettingsError(f"storage_url = {masked(url)} cannot be used; write s3://BUCKET/PREFIX")
    return S3BlobStore(Bucket(parts.netloc, prefix), Scratch(scratch.absolute()))


_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
# No segment is empty or made of dots, which some servers and proxies would resolve.
_PREFIX = re.compile(r"(?:(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+(?:/(?!$)|$))*")
_SHAPE = re.compile(r"[0-9a-f]{64}/[0-9a-f]{16}")


def _fresh_key(blob: Blob) -> str:
    return f"{blob.sha256}/{secrets.token_hex(8)}"


def _age(item: Stored) -> tuple[float, str]:
    """The order of a blob's objects, the same for all who compare them."""
    return item.modified, item.key


def _hashed(source: BinaryIO, blob: Blob, path: Path) -> Iterator[bytes]:
    """The file's bytes, which must still be those of `blob` when the last of them is given."""
    sha256 = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        sha256.update(chunk)
        yield chunk
    if sha256.hexdigest() != blob.sha256:
        raise StorageUnavailable(f"{path} changed while it was read; try again when it is complete")
