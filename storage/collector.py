"""Removes blobs that nothing refers to any more.

Nobody else deletes a blob, least of all an attempt: the same seed gives the same bytes, so a fenced
attempt would delete the winner's.

Writers and the collector never wait for each other. They are safe by the order of their steps:

    writer      1. put the bytes, or make the stored blob young      (`BlobStore.put`)
                2. in one transaction: touch the blob's row, insert the reference
    collector   1. in one transaction: delete rows that are old and without a reference
                2. remove the bytes if they are still old             (`BlobStore.delete`)

- The writer's transaction is first: the collector's finds the row touched and referred to.
- The collector's is first, and the bytes were put before it looks at them: they are young and stay;
  the writer's transaction inserts the row anew.
- The collector's is first, and the bytes go before they are put: the writer finds none and stores its
  own.
- The writer never comes to its transaction, or the collector dies between its steps: bytes without a
  row, which the walk over the store finds when they are old.

The grace is what makes "old" safe: it exceeds the time from a writer's first step to its second, which
is bounded by the longest deadline of a job. What unfinished jobs read and waiting children will read
stands in the artifacts' table from the transaction that accepted the job or settled the parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from sqlalchemy import delete, exists, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from .blobs import BlobStore, StoredBlob
from .database import Database
from .rows import Artifact, Blob

T = TypeVar("T")

# A write transaction keeps SQLite's other writers waiting: a hundred rows take it a few milliseconds.
CHUNK_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one pass did.

    Attributes:
        deleted: Blobs whose bytes are gone.
        bytes: How many bytes that were.
        spared: Blobs that seemed old and unreferenced at first and were wanted after all.
        finished: Whether the pass came to the end of the table and of the store; the next one starts
            over, else it goes on where this one stopped.
    """

    deleted: int
    bytes: int
    spared: int
    finished: bool


@dataclass(slots=True)
class _Count:
    deleted: int = 0
    bytes: int = 0
    spared: int = 0


@dataclass(slots=True)
class _Progress:
    """Where the next pass goes on."""

    row: tuple[float, str] | None = (0.0, "")
    files: Iterator[StoredBlob] | None = field(default=None)


class Collector:
    """One collector. Several at once, on one host or many, do no harm. Not safe between threads."""

    def __init__(self, database: Database, blobs: BlobStore, grace_s: float, *, strays: bool = True) -> None:
        """Build it.

        Args:
            database: Has the references.
            blobs: Has the bytes.
            grace_s: Age below which nothing is collected; longer than the longest deadline.
            strays: Whether to look for bytes that the table does not know. Where another job table keeps
                its bytes in the same store, those would be taken for strays.
        """
        self._database = database
        self._blobs = blobs
        self._grace_s = grace_s
        self._strays = strays
        self._progress = _Progress()

    def collect(self, now: float | None = None, limit: int = 10_000) -> Collected:
        """Look at some blobs and delete those that are old and unreferenced.

        Args:
            now: The time in seconds since 1970; the database's own clock by default.
            limit: How many rows, and how many files of the store, are looked at.

        Raises:
            StorageUnavailable: Table or store did not answer. What is left is found by a later pass.
        """
        if now is None:
            with self._database.read() as connection:
                now = self._database.time(connection)
        count = _Count()
        cutoff = now - self._grace_s
        rows_done = self._collect_rows(cutoff, limit, count)
        files_done = self._collect_strays(cutoff, limit, count) if self._strays else True
        finished = rows_done and files_done
        if finished:
            self._progress = _Progress()
        return Collected(deleted=count.deleted, bytes=count.bytes, spared=count.spared, finished=finished)

    def _collect_rows(self, cutoff: float, limit: int, count: _Count) -> bool:
        """Delete old unreferenced rows, then their bytes. Returns whether the table has been seen."""
        if self._progress.row is None:
            return True
        with self._database.read() as connection:
            page = connection.execute(
                select(Blob.touched_at, Blob.sha256, _referenced().label("referenced"))
                .where(tuple_(Blob.touched_at, Blob.sha256) > self._progress.row, Blob.touched_at < cutoff)
                .order_by(Blob.touched_at, Blob.sha256)
                .limit(limit)
            ).all()
        for chunk in _chunks([row.sha256 for row in page if not row.referenced]):
            removed = self._delete_rows(chunk, cutoff)
            count.spared += len(chunk) - len(removed)
            for sha256, size in removed:
                self._delete_bytes(sha256, size, cutoff, count)
        seen = len(page) < limit
        self._progress.row = None if seen else (page[-1].touched_at, page[-1].sha256)
        return seen

    def _delete_rows(self, chunk: Sequence[str], cutoff: float) -> list[tuple[str, int]]:
        old = (Blob.sha256.in_(chunk), Blob.touched_at < cutoff)
        with self._database.write() as connection:
            # PostgreSQL: in the order in which writers lock them, so that nobody deadlocks; a row that
            # somebody has locked is being touched. The statement after it sees what they committed.
            locked = connection.execute(
                select(Blob.sha256).where(*old).order_by(Blob.sha256).with_for_update(skip_locked=True)
            ).scalars()
            removed = connection.execute(
                delete(Blob)
                .where(Blob.sha256.in_(locked.all()), Blob.touched_at < cutoff, ~_referenced())
                .returning(Blob.sha256, Blob.size)
            )
            return [(row.sha256, row.size) for row in removed]

    def _collect_strays(self, cutoff: float, limit: int, count: _Count) -> bool:
        """Delete old bytes that have no row. Returns whether the whole store has been seen."""
        files = self._progress.files = self._progress.files or self._blobs.list()
        try:
            page = list(islice(files, limit))
        except BaseException:
            self._progress.files = None  # a generator that raised has ended; the store was not seen
            raise
        for chunk in _chunks([blob for blob in page if blob.modified < cutoff]):
            known = self._known([blob.sha256 for blob in chunk])
            for blob in chunk:
                if blob.sha256 not in known:
                    self._delete_bytes(blob.sha256, blob.size, cutoff, count)
        return len(page) < limit

    def _known(self, chunk: Sequence[str]) -> set[str]:
        with self._database.read() as connection:
            return set(connection.execute(select(Blob.sha256).where(Blob.sha256.in_(chunk))).scalars())

    def _delete_bytes(self, sha256: str, size: int, cutoff: float, count: _Count) -> None:
        if self._blobs.delete(sha256, older_than=cutoff):
            count.deleted += 1
            count.bytes += size
        else:
            count.spared += 1


def _referenced() -> ColumnElement[bool]:
    return exists().where(Artifact.sha256 == Blob.sha256)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), CHUNK_ROWS):
        yield items[start : start + CHUNK_ROWS]
