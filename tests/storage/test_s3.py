"""Blobs in a bucket: what is stored there, on two servers that share no code."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from soundmill.storage import s3 as s3_module
from soundmill.storage.blobs import Blob, BlobStore, digest
from soundmill.storage.bucket import (
    PART_BYTES,
    PARTS_AT_ONCE,
    Bucket,
)
from soundmill.storage.errors import NotFound, StorageUnavailable
from soundmill.storage.s3 import READ_BYTES, S3BlobStore, open_bucket

from ..s3 import S3Bucket
from .blob_contract import BlobContract, sha256
from .objects import given, large

MIB = 1024**2


@pytest.fixture
def blobs(s3: S3Bucket, tmp_path: Path) -> S3BlobStore:
    return open_bucket(s3.url, tmp_path / "scratch")


@pytest.fixture
def objects(s3: S3Bucket) -> Callable[[], list[str]]:
    """The keys of all objects of the bucket."""
    bucket = Bucket(s3.name, "")
    return lambda: [item.key for item in bucket.objects()]


class TestContract(BlobContract):
    resolution_s = 2.2  # S3 counts in whole seconds, and the store gives each blob the benefit of one more
    races = 3

    @pytest.fixture
    def blobs(self, s3: S3Bucket, tmp_path: Path) -> BlobStore:
        return open_bucket(s3.url, tmp_path / "scratch")


class TestContractOnRclone(BlobContract):
    """On a server that keeps files: other code than moto's, but no S3 where requests cross each other."""

    resolution_s = 2.2
    races = 3

    @pytest.fixture
    def blobs(self, s3_of_rclone: S3Bucket, tmp_path: Path) -> BlobStore:
        return open_bucket(s3_of_rclone.url, tmp_path / "scratch")

    def test_many_writers_of_the_same_bytes_all_succeed(self, blobs: BlobStore, tmp_path: Path) -> None:
        # All copies can vanish there. Suspected, not proven: a copy gets the time of its source after it was
        # listed, and each writer keeps what is the youngest at its moment. S3 never changes an object's time.
        pytest.skip("rclone's server can lose the bytes when many writers replace each other's copies")


def test_a_blob_is_one_object_in_a_folder_of_its_name(
    blobs: S3BlobStore, tmp_path: Path, objects: Callable[[], list[str]]
) -> None:
    blob = blobs.put(given(tmp_path, b"x"))
    (key,) = objects()
    assert key.rpartition("/")[0] == f"artifacts/{blob.sha256}"


def test_a_blob_that_is_put_again_is_copied_inside_the_server_and_is_still_one_object(
    blobs: S3BlobStore, tmp_path: Path, objects: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs.put(given(tmp_path, b"x"))

    def no_upload(*_: object) -> None:
        raise AssertionError("it was uploaded")

    monkeypatch.setattr(S3BlobStore, "_upload", no_upload)
    blobs.put(given(tmp_path, b"x"))
    assert len(objects()) == 1


@pytest.mark.parametrize("parts", [1, 1.0001, 3.5])
def test_a_file_of_several_parts_is_stored_whole_and_read_in_ranges(
    blobs: S3BlobStore, tmp_path: Path, s3: S3Bucket, parts: float
) -> None:
    content = large(parts)
    blob = blobs.put(given(tmp_path, content))
    assert (blob.sha256, blob.size) == (sha256(content), len(content))
    with blobs.fetch(blob.sha256) as path:
        assert path.read_bytes() == content
    with blobs.open(blob.sha256) as stream:
        stream.seek(READ_BYTES - 3)
        assert stream.read(6) == content[READ_BYTES - 3 : READ_BYTES + 3]
        stream.seek(5)
        assert stream.read() == content[5:]
    assert s3.unfinished_uploads() == 0


def test_large_files_go_through_little_memory(blobs: S3BlobStore, tmp_path: Path) -> None:
    path = given(tmp_path, large(6))
    tracemalloc.start()
    try:
        with blobs.fetch(blobs.put(path).sha256):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (PARTS_AT_ONCE + 1.5) * PART_BYTES


def test_what_was_fetched_is_removed_afterwards(blobs: S3BlobStore, tmp_path: Path) -> None:
    blob = blobs.put(given(tmp_path, b"x"))
    with blobs.fetch(blob.sha256) as path:
        assert path.stat().st_mode & 0o777 == 0o440
        assert path.is_relative_to(tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_bytes_that_are_not_those_of_the_name_are_not_given_out(
    blobs: S3BlobStore, s3: S3Bucket, tmp_path: Path
) -> None:
    name = sha256(b"right")
    Bucket(s3.name, "artifacts").put(f"{name}/{'0' * 16}", b"wrong")
    with pytest.raises(StorageUnavailable, match="damaged"), blobs.fetch(name):
        pass


def test_a_blob_of_the_wrong_length_is_written_anew(blobs: S3BlobStore, s3: S3Bucket, tmp_path: Path) -> None:
    name = sha256(b"all of it")
    Bucket(s3.name, "artifacts").put(f"{name}/{'0' * 16}", b"all")
    blobs.put(given(tmp_path, b"all of it"))
    with blobs.fetch(name) as path:
        assert path.read_bytes() == b"all of it"


@pytest.mark.parametrize("size", [10, PART_BYTES + 10])
def test_a_file_that_changes_while_it_is_put_leaves_nothing(
    blobs: S3BlobStore, tmp_path: Path, s3: S3Bucket, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = given(tmp_path, b"a" * size)

    def change_after(source: BinaryIO) -> Blob:
        found = digest(source)
        given(tmp_path, b"b" * size)
        return found

    monkeypatch.setattr(s3_module, "digest", change_after)
    with pytest.raises(StorageUnavailable, match="changed while it was read"):
        blobs.put(path)
    assert list(blobs.list()) == []
    assert s3.unfinished_uploads() == 0
    assert path.exists()


def test_a_large_blob_that_is_deleted_while_it_is_read_ends_the_stream(
    blobs: S3BlobStore, tmp_path: Path
) -> None:
    blob = blobs.put(given(tmp_path, large(1.5)))
    with blobs.open(blob.sha256) as stream:
        stream.read(10)
        blobs.delete(blob.sha256)
        with pytest.raises(NotFound):
            stream.read()


def test_a_large_blob_that_is_refreshed_while_it_is_read_is_read_on(
    blobs: S3BlobStore, tmp_path: Path
) -> None:
    content = large(2.5)
    blob = blobs.put(given(tmp_path, content))
    with blobs.open(blob.sha256) as stream:
        head = stream.read(10)
        blobs.put(given(tmp_path, content))
        assert head + stream.read() == content


def test_two_writers_at_once_of_the_same_new_bytes_leave_one_blob_and_in_the_end_one_object(
    blobs: S3BlobStore, tmp_path: Path, objects: Callable[[], list[str]]
) -> None:
    content, start = large(1.5), threading.Barrier(2)

    def write(name: str) -> None:
        path = given(tmp_path, content, name)
        start.wait()
        blobs.put(path)

    writers = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [blob.sha256 for blob in blobs.list()] == [sha256(content)]
    assert len(objects()) == 1
    with blobs.fetch(sha256(content)) as path:
        assert path.read_bytes() == content


def test_foreign_objects_are_neither_listed_nor_touched(
    blobs: S3BlobStore, s3: S3Bucket, tmp_path: Path, objects: Callable[[], list[str]]
) -> None:
    blob = blobs.put(given(tmp_path, b"x"))
    bucket = Bucket(s3.name, "")
    foreign = [
        "README",
        "artifacts/README",
        f"artifacts/{blob.sha256}/by hand",
        f"artifacts-2/{'f' * 64}/{'0' * 16}",
    ]
    for key in foreign:
        bucket.put(key, b"by hand")
    assert [found.sha256 for found in blobs.list()] == [blob.sha256]
    assert blobs.delete(blob.sha256)
    assert sorted(objects()) == sorted(foreign)
