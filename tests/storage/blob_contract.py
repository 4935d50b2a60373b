"""What every blob store promises. A store's own test file subclasses it and gives the `blobs` fixture."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from soundmill.storage.blobs import BlobStore
from soundmill.storage.errors import NotFound

HOUR_S = 3600.0


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class BlobContract:
    """The suite. It knows the port and nothing of how bytes are kept.

    Attributes:
        resolution_s: How long to wait for a later moment to be later to the store, too. File systems
            stamp with the time of the last tick, up to 10 ms ago.
        races: How often writers and deletions meet.
    """

    resolution_s = 0.03
    races = 60

    @pytest.fixture
    def blobs(self) -> BlobStore:
        raise NotImplementedError

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "given"
        path.write_bytes(b"some sound")
        return path

    def test_what_is_put_is_named_after_its_hash_and_read_back(self, blobs: BlobStore, file: Path) -> None:
        blob = blobs.put(file)
        assert (blob.sha256, blob.size) == (sha256(b"some sound"), 10)
        with blobs.open(blob.sha256) as stream:
            assert stream.read(4) == b"some"
            assert stream.read() == b" sound"
        with blobs.fetch(blob.sha256) as path:
            assert path.read_bytes() == b"some sound"

    def test_an_empty_file_is_a_blob_too(self, blobs: BlobStore, file: Path) -> None:
        file.write_bytes(b"")
        blob = blobs.put(file)
        assert blob.size == 0
        with blobs.open(blob.sha256) as stream:
            assert stream.read() == b""

    def test_a_file_of_several_chunks_is_stored_whole(self, blobs: BlobStore, file: Path) -> None:
        content = bytes(range(256)) * 12_345
        file.write_bytes(content)
        with blobs.fetch(blobs.put(file).sha256) as path:
            assert path.read_bytes() == content

    def test_a_moved_file_is_gone_and_a_copied_one_stays(self, blobs: BlobStore, file: Path) -> None:
        blobs.put(file, move=False)
        assert file.read_bytes() == b"some sound"
        blobs.put(file, move=True)
        assert not file.exists()

    def test_the_same_bytes_are_kept_once(self, blobs: BlobStore, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).write_bytes(b"the same")
        assert blobs.put(tmp_path / "one") == blobs.put(tmp_path / "two")
        assert [(b.sha256, b.size) for b in blobs.list()] == [(sha256(b"the same"), 8)]

    def test_what_is_not_stored_is_not_found(self, blobs: BlobStore) -> None:
        absent = sha256(b"absent")
        with pytest.raises(NotFound):
            blobs.open(absent)
        with pytest.raises(NotFound), blobs.fetch(absent):
            pass
        assert not blobs.delete(absent)

    def test_a_file_that_is_not_there_cannot_be_put(self, blobs: BlobStore, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="nothing-here"):
            blobs.put(tmp_path / "nothing-here")

    @pytest.mark.parametrize(
        "name", ["", "ab", "../" * 10 + "etc/passwd", "A" * 64, "g" * 64, "a" * 65, "a" * 63 + "\n", "a" * 63 + "/"]
    )  # fmt: skip
    def test_what_is_no_hash_names_nothing(self, blobs: BlobStore, name: str) -> None:
        with pytest.raises(NotFound):
            blobs.open(name)
        with pytest.raises(NotFound), blobs.fetch(name):
            pass
        with pytest.raises(NotFound):
            blobs.delete(name)

    def test_a_deleted_blob_is_gone_and_can_be_put_again(self, blobs: BlobStore, file: Path) -> None:
        blob = blobs.put(file, move=False)
        assert blobs.delete(blob.sha256)
        assert not blobs.delete(blob.sha256)
        assert list(blobs.list()) == []
        assert blobs.put(file) == blob
        with blobs.fetch(blob.sha256) as path:
            assert path.read_bytes() == b"some sound"

    def test_a_blob_that_is_young_enough_is_not_deleted(self, blobs: BlobStore, file: Path) -> None:
        blob = blobs.put(file)
        assert not blobs.delete(blob.sha256, older_than=time.time() - HOUR_S)
        blobs.open(blob.sha256).close()
        assert blobs.delete(blob.sha256, older_than=time.time() + HOUR_S)

    def test_putting_again_makes_a_blob_young(self, blobs: BlobStore, file: Path) -> None:
        blob = blobs.put(file, move=False)
        (before,) = blobs.list()
        time.sleep(self.resolution_s)
        blobs.put(file)
        (after,) = blobs.list()
        assert after.modified > before.modified
        assert not blobs.delete(blob.sha256, older_than=before.modified + 0.001)

    def test_all_blobs_are_listed_with_size_and_age(self, blobs: BlobStore, tmp_path: Path) -> None:
        started = time.time() - 2  # file systems round times
        expected = {}
        for number in range(20):
            path = tmp_path / str(number)
            path.write_bytes(b"x" * number)
            expected[blobs.put(path).sha256] = number
        found = list(blobs.list())
        assert {blob.sha256: blob.size for blob in found} == expected
        assert all(started <= blob.modified <= time.time() + 2 for blob in found)

    def test_a_stream_that_is_being_read_outlives_the_blob(self, blobs: BlobStore, file: Path) -> None:
        blob = blobs.put(file)
        with blobs.open(blob.sha256) as stream:
            blobs.delete(blob.sha256)
            assert stream.read() == b"some sound"

    def test_a_stream_can_seek(self, blobs: BlobStore, file: Path) -> None:
        with blobs.open(blobs.put(file).sha256) as stream:
            assert stream.seekable()
            assert stream.seek(-5, os.SEEK_END) == 5
            assert stream.read() == b"sound"
            stream.seek(0)
            assert stream.read(4) == b"some"
            assert stream.tell() == 4
            stream.seek(1000)
            assert stream.read() == b""

    def test_a_scratch_folder_is_the_callers_own_and_gone_afterwards(self, blobs: BlobStore) -> None:
        with blobs.scratch() as one, blobs.scratch() as two:
            assert one != two
            (one / "made").write_bytes(b"some sound")
            blob = blobs.put(one / "made")
            (one / "left").write_text("x")
        assert not one.exists()
        with blobs.open(blob.sha256) as stream:
            assert stream.read() == b"some sound"

    def test_many_writers_of_the_same_bytes_all_succeed(self, blobs: BlobStore, tmp_path: Path) -> None:
        answers = []

        def put(name: str) -> None:
            path = tmp_path / name
            path.write_bytes(b"all alike" * 1000)
            answers.append(blobs.put(path))

        threads = [threading.Thread(target=put, args=(str(number),)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 12
        assert len(set(answers)) == 1
        assert [blob.sha256 for blob in blobs.list()] == [answers[0].sha256]

    def test_a_writer_never_loses_its_blob_to_a_deletion_that_only_wants_older_ones(
        self, blobs: BlobStore, tmp_path: Path
    ) -> None:
        content = b"contested"
        name = sha256(content)

        def write(path: Path) -> Path:
            path.write_bytes(content)
            return path

        blobs.put(write(tmp_path / "first"))
        for number in range(self.races):
            time.sleep(self.resolution_s)
            cutoff = time.time() - 0.015
            start = threading.Barrier(3)

            def collect(start: threading.Barrier = start, cutoff: float = cutoff) -> None:
                start.wait()
                blobs.delete(name, older_than=cutoff)

            collectors = [threading.Thread(target=collect) for _ in range(2)]
            for collector in collectors:
                collector.start()
            path = write(tmp_path / f"again-{number}")
            start.wait()
            blobs.put(path)
            for collector in collectors:
                collector.join()
            with blobs.open(name) as stream:
                assert stream.read() == content
