from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from sqlalchemy import delete, insert, select, update

from soundmill.storage import submission
from soundmill.storage.blobs import Blob as Stored
from soundmill.storage.blobs import LocalBlobStore, StoredBlob
from soundmill.storage.collector import Collected, Collector
from soundmill.storage.database import Database
from soundmill.storage.errors import StorageUnavailable
from soundmill.storage.rows import Artifact, Blob
from soundmill.storage.schema import migrate

HOUR_S = 3600.0
GRACE_S = 26 * HOUR_S


class Storage:
    """A job table and a blob store, with the two steps of a writer."""

    def __init__(self, database: Database, blobs: LocalBlobStore) -> None:
        self.database = database
        self.blobs = blobs
        self._numbers = itertools.count(1)

    def put(self, content: bytes) -> Stored:
        """A writer's first step."""
        with self.blobs.scratch() as folder:
            (folder / "made").write_bytes(content)
            return self.blobs.put(folder / "made")

    def submit(self, blob: Stored) -> str:
        """A writer's second step: a job that reads the blob."""
        number = next(self._numbers)
        job = submission.NewJob(
            id=f"{threading.get_ident() % 10**12:013}{number:013}",
            tenant="default",
            batch="",
            custom_id=None,
            kind="align",
            model="espeak-dtw",
            args={},
            args_version=1,
            digest="0" * 64,
            priority=4,
            max_failures=3,
            inputs=(
                submission.StoredInput(
                    name="audio", sha256=blob.sha256, size=blob.size, media_type="audio/wav"
                ),
            ),
        )
        with self.database.write() as connection:
            submission.accept(connection, self.database, [job])
        return job.id

    def make(self, job: str, blob: Stored) -> None:
        """A writer's second step: an artifact of a job, as the settling transaction writes it."""
        now = time.time()
        with self.database.write() as connection:
            submission.record_blobs(connection, self.database, [(blob.sha256, blob.size)], now)
            connection.execute(
                insert(Artifact).values(
                    job_id=job, name="speech.wav", role="audio", sha256=blob.sha256, size=blob.size,
                    media_type="audio/wav", attempt=1, created_at=now,
                )
            )  # fmt: skip

    def forget(self, job: str) -> None:
        with self.database.write() as connection:
            connection.execute(delete(Artifact).where(Artifact.job_id == job))

    def age(self, blob: Stored, age_s: float = 2 * GRACE_S) -> None:
        """Let the time pass for one blob, in the store and in the table."""
        then = time.time() - age_s
        with self.blobs.fetch(blob.sha256) as path:
            os.utime(path, (then, then))
        with self.database.write() as connection:
            connection.execute(update(Blob).where(Blob.sha256 == blob.sha256).values(touched_at=then))

    def unreferenced(self, content: bytes) -> Stored:
        """A blob that a job once had."""
        blob = self.put(content)
        self.forget(self.submit(blob))
        return blob

    def rows(self) -> set[str]:
        with self.database.read() as connection:
            return set(connection.execute(select(Blob.sha256)).scalars())

    def files(self) -> set[str]:
        return {blob.sha256 for blob in self.blobs.list()}


@pytest.fixture
def storage(tmp_path: Path, database_url: str) -> Iterator[Storage]:
    database = Database(database_url)
    migrate(database)
    yield Storage(database, LocalBlobStore(tmp_path / "blobs"))
    database.close()


@pytest.fixture
def collector(storage: Storage) -> Collector:
    return Collector(storage.database, storage.blobs, GRACE_S)


def test_an_old_unreferenced_blob_loses_row_and_bytes(storage: Storage, collector: Collector) -> None:
    blob = storage.unreferenced(b"12345")
    storage.age(blob)
    assert collector.collect() == Collected(deleted=1, bytes=5, spared=0, finished=True)
    assert storage.rows() == storage.files() == set()
    assert collector.collect() == Collected(deleted=0, bytes=0, spared=0, finished=True)


def test_a_young_blob_stays_until_the_grace_is_over(storage: Storage, collector: Collector) -> None:
    storage.unreferenced(b"x")
    now = time.time()
    assert collector.collect(now=now + GRACE_S - 60).deleted == 0
    assert collector.collect(now=now + GRACE_S + 60).deleted == 1


def test_what_a_job_reads_or_made_stays_however_old(storage: Storage, collector: Collector) -> None:
    read, made = storage.put(b"input"), storage.put(b"output")
    storage.make(storage.submit(read), made)
    for blob in (read, made):
        storage.age(blob)
    assert collector.collect().deleted == 0
    assert storage.rows() == storage.files() == {read.sha256, made.sha256}


def test_a_blob_of_several_jobs_stays_for_the_last_of_them(storage: Storage, collector: Collector) -> None:
    blob = storage.put(b"shared voice")
    first, second = storage.submit(blob), storage.submit(blob)
    storage.forget(first)
    storage.age(blob)
    assert collector.collect().deleted == 0
    storage.forget(second)
    assert collector.collect().deleted == 1


def test_old_bytes_without_a_row_are_collected_and_young_ones_are_not(
    storage: Storage, collector: Collector
) -> None:
    old, young = storage.put(b"never committed"), storage.put(b"about to be")
    with storage.blobs.fetch(old.sha256) as path:
        os.utime(path, (0, 0))
    assert collector.collect() == Collected(deleted=1, bytes=15, spared=0, finished=True)
    assert storage.files() == {young.sha256}


def test_a_row_whose_bytes_are_gone_already_is_removed(storage: Storage, collector: Collector) -> None:
    blob = storage.unreferenced(b"x")
    storage.age(blob)
    storage.blobs.delete(blob.sha256)
    assert collector.collect().deleted == 0
    assert storage.rows() == set()


def test_each_pass_looks_at_a_bounded_number_and_the_next_goes_on(
    storage: Storage, collector: Collector
) -> None:
    kept = [storage.put(b"kept %d" % number) for number in range(4)]
    for blob in kept:
        storage.submit(blob)
        storage.age(blob, 3 * GRACE_S)  # in front of those that can go
    gone = [storage.unreferenced(b"gone %d" % number) for number in range(5)]
    for blob in gone:
        storage.age(blob)
    passes = [collector.collect(limit=3) for _ in range(4)]
    assert [result.finished for result in passes] == [False, False, False, True]
    assert sum(result.deleted for result in passes) == 5
    assert storage.rows() == storage.files() == {blob.sha256 for blob in kept}
    late = storage.unreferenced(b"late")
    storage.age(late)
    assert sum(collector.collect(limit=3).deleted for _ in range(3)) == 1


def test_many_blobs_are_collected_in_one_pass(storage: Storage, collector: Collector) -> None:
    for number in range(250):
        blob = storage.put(b"%d" % number)
        with storage.blobs.fetch(blob.sha256) as path:
            os.utime(path, (0, 0))
    with storage.database.write() as connection:
        rows = [(blob.sha256, blob.size) for blob in itertools.islice(storage.blobs.list(), 150)]
        submission.record_blobs(connection, storage.database, rows, now=1.0)
    assert collector.collect().deleted == 250
    assert storage.rows() == storage.files() == set()


class Meddled(LocalBlobStore):
    """A store at which somebody else does something right before or after a deletion."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    def delete(self, sha256: str, *, older_than: float | None = None) -> bool:
        once, self.before = self.before, lambda: None
        once()
        removed = super().delete(sha256, older_than=older_than)
        once, self.after = self.after, lambda: None
        once()
        return removed

    def open(self, sha256: str) -> BinaryIO:
        return super().open(sha256)


@pytest.fixture
def meddled(storage: Storage) -> Meddled:
    storage.blobs = Meddled(storage.blobs.root)
    return storage.blobs


def old_and_unreferenced(storage: Storage) -> Stored:
    blob = storage.unreferenced(b"contested")
    storage.age(blob)
    return blob


def wanted(storage: Storage, blob: Stored) -> bool:
    return storage.rows() == storage.files() == {blob.sha256} and storage.blobs.verify(blob.sha256)


def test_a_writer_that_did_its_first_step_is_spared(storage: Storage, collector: Collector) -> None:
    blob = old_and_unreferenced(storage)
    storage.put(b"contested")
    assert collector.collect().spared == 1
    assert storage.rows() == set()
    storage.submit(blob)
    assert wanted(storage, blob)


def test_a_writer_that_did_both_steps_is_spared(storage: Storage, collector: Collector) -> None:
    blob = old_and_unreferenced(storage)
    storage.submit(storage.put(b"contested"))
    assert collector.collect() == Collected(deleted=0, bytes=0, spared=0, finished=True)
    assert wanted(storage, blob)


def test_a_writer_between_the_collectors_steps_is_spared(storage: Storage, meddled: Meddled) -> None:
    blob = old_and_unreferenced(storage)
    meddled.before = lambda: storage.submit(storage.put(b"contested"))
    result = Collector(storage.database, meddled, GRACE_S).collect()
    assert (result.deleted, result.spared) == (0, 1)
    assert wanted(storage, blob)


def test_a_writer_whose_first_step_is_between_and_whose_second_is_after_is_spared(
    storage: Storage, meddled: Meddled
) -> None:
    blob = old_and_unreferenced(storage)
    meddled.before = lambda: storage.put(b"contested")
    meddled.after = lambda: storage.submit(blob)
    assert Collector(storage.database, meddled, GRACE_S).collect().deleted == 0
    assert wanted(storage, blob)


def test_a_writer_after_both_steps_stores_its_own_bytes(storage: Storage, meddled: Meddled) -> None:
    blob = old_and_unreferenced(storage)
    meddled.after = lambda: storage.submit(storage.put(b"contested"))
    assert Collector(storage.database, meddled, GRACE_S).collect().deleted == 1
    assert wanted(storage, blob)


def test_a_writer_that_commits_after_the_candidates_were_read_is_spared(
    storage: Storage, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = old_and_unreferenced(storage)
    delete_rows = collector._delete_rows

    def write_first(chunk: list[str], cutoff: float) -> list[tuple[str, int]]:
        storage.submit(storage.put(b"contested"))
        return delete_rows(chunk, cutoff)

    monkeypatch.setattr(collector, "_delete_rows", write_first)
    assert collector.collect().spared == 1
    assert wanted(storage, blob)


def test_a_writer_of_unknown_bytes_that_commits_during_the_walk_is_spared(
    storage: Storage, meddled: Meddled
) -> None:
    blob = storage.put(b"contested")
    with meddled.fetch(blob.sha256) as path:
        os.utime(path, (0, 0))
    meddled.before = lambda: storage.submit(storage.put(b"contested"))
    assert Collector(storage.database, meddled, GRACE_S).collect().deleted == 0
    assert wanted(storage, blob)


def test_a_collector_that_dies_between_its_steps_leaves_bytes_for_the_next(
    storage: Storage, meddled: Meddled, collector: Collector
) -> None:
    old_and_unreferenced(storage)

    def die() -> None:
        raise StorageUnavailable("the store is away")

    meddled.before = die
    with pytest.raises(StorageUnavailable):
        Collector(storage.database, meddled, GRACE_S).collect()
    assert storage.rows() == set()
    assert len(storage.files()) == 1
    assert collector.collect().deleted == 1


def test_a_walk_that_failed_starts_over(
    storage: Storage, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = storage.put(b"x")
    with storage.blobs.fetch(blob.sha256) as path:
        os.utime(path, (0, 0))

    def broken() -> Iterator[StoredBlob]:
        yield StoredBlob(sha256="0" * 64, size=1, modified=time.time())
        raise StorageUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(storage.blobs, "list", broken)
        with pytest.raises(StorageUnavailable):
            collector.collect()
    assert collector.collect().deleted == 1


class Rush:
    """Writers and collectors at random over a few blobs, each of which grows old whenever it is at rest."""

    def __init__(self, storage: Storage, seed: int) -> None:
        self.storage = storage
        self.seed = seed
        self.lost: list[str] = []
        self.deleted = 0
        self.done = threading.Event()
        self._mutex = threading.Lock()
        self._writing: Counter[bytes] = Counter()

    def write(self, number: int) -> None:
        draws = random.Random(self.seed + number)
        for _ in range(25):
            content = draws.choice([b"one", b"two"])
            with self._mutex:
                self._writing[content] += 1
            blob = self.storage.put(content)
            time.sleep(draws.choice([0, 0, 0.002]))
            job = self.storage.submit(blob)
            if not self.storage.blobs.verify(blob.sha256):
                self.lost.append(blob.sha256)
            self.storage.forget(job)
            with self._mutex:
                self._writing[content] -= 1
                # Days pass in no time, but not for a writer between its two steps.
                if not self._writing[content]:
                    self.storage.age(blob)

    def collect(self) -> None:
        collector = Collector(self.storage.database, self.storage.blobs, GRACE_S)
        while not self.done.is_set():
            self.deleted += collector.collect().deleted


def test_no_writer_loses_its_blob_while_collectors_run(storage: Storage) -> None:
    rush = Rush(storage, seed := random.randrange(2**32))
    with ThreadPoolExecutor() as pool:
        collectors = [pool.submit(rush.collect) for _ in range(2)]
        writers = [pool.submit(rush.write, number) for number in range(3)]
        try:
            for writer in writers:
                writer.result()
        finally:
            rush.done.set()
        for collector in collectors:
            collector.result()
    # On a busy machine the collectors may never have come at a moment when a blob was at rest.
    rush.deleted += Collector(storage.database, storage.blobs, GRACE_S).collect().deleted
    assert not rush.lost, seed
    assert rush.deleted > 0, seed
