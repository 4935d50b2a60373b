"""A server of a bucket that refuses, stalls, cuts short or is not there, and what that is to us."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import obstore.exceptions
import pytest

from soundmill.storage import bucket as bucket_module
from soundmill.storage.bucket import (
    PART_BYTES,
    REPEAT_S,
    REQUEST_S,
    SILENCE_S,
    Bucket,
)
from soundmill.storage.errors import StorageError, StorageFull, StorageUnavailable
from soundmill.storage.s3 import S3BlobStore, open_bucket

from ..s3 import S3Bucket, Way
from .blob_contract import sha256
from .objects import given, large

MIB = 1024**2


@pytest.fixture
def blobs(s3: S3Bucket, tmp_path: Path) -> S3BlobStore:
    return open_bucket(s3.url, tmp_path / "scratch")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores made in the test give a silent server up within two seconds or so."""
    for name in ("_ASKING", "_CLIENT"):
        hasty = {"connect_timeout": timedelta(seconds=1), "timeout": timedelta(seconds=3)}
        monkeypatch.setattr(bucket_module, name, getattr(bucket_module, name) | hasty)
    monkeypatch.setitem(bucket_module._ASKING, "read_timeout", timedelta(seconds=1))
    retry = {
        "max_retries": 2,
        "retry_timeout": timedelta(seconds=1),
        "backoff": {"max_backoff": timedelta(seconds=0.1)},
    }
    monkeypatch.setattr(bucket_module, "_RETRY", retry)


def uses(blobs: S3BlobStore, folder: Path) -> Iterator[Callable[[], object]]:
    """Every way to ask the server something."""
    yield lambda: blobs.put(given(folder, b"x"))
    yield lambda: blobs.open(sha256(b"x"))
    yield lambda: blobs.fetch(sha256(b"x")).__enter__()
    yield lambda: blobs.delete(sha256(b"x"))
    yield lambda: list(blobs.list())


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        ("403 Forbidden", "AccessDenied", StorageUnavailable, r"\(AccessDenied\): set AWS_ACCESS_KEY_ID"),
        ("403 Forbidden", "SignatureDoesNotMatch", StorageUnavailable, "set AWS_ACCESS_KEY_ID"),
        ("401 Unauthorized", "", StorageUnavailable, r"\(HTTP 401\): set AWS_ACCESS_KEY_ID"),
        ("400 Bad Request", "ExpiredToken", StorageUnavailable, "set AWS_ACCESS_KEY_ID"),
        ("403 Forbidden", "RequestTimeTooSkewed", StorageUnavailable, "clock"),
        ("403 Forbidden", "QuotaExceeded", StorageFull, "raise its quota"),
        ("507 Insufficient Storage", "", StorageFull, "raise its quota"),
        ("400 Bad Request", "AuthorizationHeaderMalformed", StorageUnavailable, "AWS_REGION"),
        ("301 Moved Permanently", "PermanentRedirect", StorageUnavailable, "AWS_REGION"),
        ("404 Not Found", "", StorageUnavailable, "create it"),
        ("503 Service Unavailable", "SlowDown", StorageUnavailable, "SlowDown"),
        ("501 Not Implemented", "NotImplemented", StorageUnavailable, "NotImplemented"),
    ],
)
@pytest.mark.usefixtures("hasty")
def test_a_refusal_says_what_to_change_and_no_secret(
    s3: S3Bucket, s3_way: Way, tmp_path: Path, status: str, code: str, kind: type[StorageError], words: str
) -> None:
    s3_way.refuse(status, code)
    for use in uses(open_bucket(s3.url, tmp_path / "scratch"), tmp_path):
        with pytest.raises(kind, match=words) as caught:
            use()
        assert "hush" not in str(caught.value)
        assert "very secret" not in str(caught.value)


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_not_a_missing_blob(tmp_path: Path) -> None:
    for use in uses(open_bucket("s3://nobodys-bucket/x", tmp_path / "scratch"), tmp_path):
        with pytest.raises(StorageUnavailable, match="bucket nobodys-bucket is not there"):
            use()


@pytest.mark.usefixtures("hasty")
def test_without_credentials_the_sentence_names_the_variables(
    s3: S3Bucket, s3_way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3_way.refuse("404 Not Found", "")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", s3_way.endpoint)
    with pytest.raises(StorageUnavailable, match=r"no credentials .* AWS_ACCESS_KEY_ID"):
        open_bucket(s3.url, tmp_path).put(given(tmp_path, b"x"))


@pytest.mark.usefixtures("hasty")
def test_an_endpoint_where_nobody_listens_is_unavailable_soon(
    s3: S3Bucket, s3_way: Way, tmp_path: Path
) -> None:
    s3_way.close()
    blobs = open_bucket(s3.url, tmp_path / "scratch")
    for use in uses(blobs, tmp_path):
        with pytest.raises(StorageUnavailable, match="does not answer: check AWS_ENDPOINT_URL"):
            use()


@pytest.mark.usefixtures("hasty")
def test_a_server_that_stalls_is_given_up(s3: S3Bucket, s3_way: Way, tmp_path: Path) -> None:
    s3_way.stalls = True
    begun = time.monotonic()
    path = given(tmp_path, b"some sound")
    with pytest.raises(StorageUnavailable, match="does not answer"):
        open_bucket(s3.url, tmp_path / "scratch").put(path)
    assert time.monotonic() - begun < 10
    assert path.read_bytes() == b"some sound"


def test_a_question_without_an_answer_takes_half_a_minute_and_a_write_not_much_more_than_one() -> None:
    assert SILENCE_S + REPEAT_S <= 30
    assert REQUEST_S + REPEAT_S <= 75


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("parts", [0.5, 2.5])
def test_a_truncated_upload_leaves_nothing_visible(
    s3: S3Bucket, s3_way: Way, tmp_path: Path, parts: float
) -> None:
    content = large(parts)
    path = given(tmp_path, content)
    s3_way.limit = PART_BYTES // 4
    with pytest.raises(StorageUnavailable):
        open_bucket(s3.url, tmp_path / "scratch").put(path)
    assert path.read_bytes() == content
    s3_way.limit = None
    later = open_bucket(s3.url, tmp_path / "scratch")
    assert list(later.list()) == []
    later.put(path)
    with later.fetch(sha256(content)) as found:
        assert found.read_bytes() == content


def test_an_upload_whose_last_answer_is_lost_counts(
    blobs: S3BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parts = Bucket.put_parts

    def lose_answer(bucket: Bucket, key: str, chunks: Iterator[bytes]) -> None:
        put_parts(bucket, key, chunks)
        raise StorageUnavailable("no such upload")

    monkeypatch.setattr(Bucket, "put_parts", lose_answer)
    content = large(1.5)
    with blobs.fetch(blobs.put(given(tmp_path, content)).sha256) as path:
        assert path.read_bytes() == content


@pytest.mark.usefixtures("hasty")
def test_a_download_that_is_cut_short_is_no_blob(s3: S3Bucket, s3_way: Way, tmp_path: Path) -> None:
    blobs = open_bucket(s3.url, tmp_path / "scratch")
    blob = blobs.put(given(tmp_path, large(1)))
    s3_way.back_limit = 5_000
    with pytest.raises(StorageUnavailable), blobs.fetch(blob.sha256):
        pass
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_download_that_is_cut_short_once_is_resumed(s3: S3Bucket, s3_way: Way, tmp_path: Path) -> None:
    blobs = open_bucket(s3.url, tmp_path / "scratch")
    content = large(1)
    blob = blobs.put(given(tmp_path, content))
    s3_way.back_limit = len(content) // 2 + 5_000
    with blobs.fetch(blob.sha256) as path:
        assert path.read_bytes() == content


def test_a_connection_that_breaks_once_is_not_noticed(s3: S3Bucket, s3_way: Way, tmp_path: Path) -> None:
    blobs = open_bucket(s3.url, tmp_path / "scratch")
    s3_way.limit = 100
    mended = threading.Timer(0.15, setattr, (s3_way, "limit", None))
    mended.start()
    blob = blobs.put(given(tmp_path, b"some sound"))
    mended.join()
    with blobs.open(blob.sha256) as stream:
        assert stream.read() == b"some sound"
    assert s3_way.connections > 2


def test_an_object_that_cannot_be_tidied_away_fails_no_put(
    blobs: S3BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs.put(given(tmp_path, b"x"))

    def refuse(*_: object) -> None:
        raise StorageUnavailable("not now")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "delete", refuse)
        blobs.put(given(tmp_path, b"x"))
    assert [blob.sha256 for blob in blobs.list()] == [sha256(b"x")]


def test_a_key_that_somebody_has_is_not_overwritten(s3: S3Bucket) -> None:
    bucket = Bucket(s3.name, "")
    bucket.put("key", b"first")
    with pytest.raises(StorageUnavailable, match="PreconditionFailed"):
        bucket.put("key", b"other")
    assert bucket.read("key", 0, 5, size=5) == b"first"


@pytest.mark.parametrize("arrives", [True, False])
def test_an_upload_without_an_answer_is_repeated_and_stored_once(
    blobs: S3BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    put, tries = obstore.put, 0

    def lose_first(*args: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        if arrives or tries > 1:
            put(*args, **options)
        if tries == 1:
            raise obstore.exceptions.GenericError("error sending request: connection closed")

    monkeypatch.setattr(obstore, "put", lose_first)
    blob = blobs.put(given(tmp_path, b"some sound"))
    monkeypatch.undo()
    assert tries == 2
    with blobs.open(blob.sha256) as stream:
        assert stream.read() == b"some sound"
