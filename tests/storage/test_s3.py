"""Blobs in a bucket of a real server, and what its errors are to us."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from soundmill.storage import bucket as bucket_module
from soundmill.storage import s3 as s3_module
from soundmill.storage.blobs import Blob, BlobStore, digest, open_blobs
from soundmill.storage.bucket import (
    PART_BYTES,
    PARTS_AT_ONCE,
    REPEAT_S,
    REQUEST_S,
    SILENCE_S,
    Bucket,
    translation,
)
from soundmill.storage.errors import NotFound, SettingsError, StorageError, StorageFull, StorageUnavailable
from soundmill.storage.s3 import READ_BYTES, S3BlobStore, open_bucket
from soundmill.storage.settings import Settings

from ..s3 import S3Bucket, Way
from .blob_contract import BlobContract, sha256

MIB = 1024**2


@pytest.fixture
def blobs(s3: S3Bucket, tmp_path: Path) -> S3BlobStore:
    return open_bucket(s3.url, tmp_path / "scratch")


@pytest.fixture
def objects(s3: S3Bucket) -> Callable[[], list[str]]:
    """The keys of all objects of the bucket."""
    bucket = Bucket(s3.name, "")
    return lambda: [item.key for item in bucket.objects()]


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


def given(folder: Path, content: bytes, name: str = "given") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def large(parts: float) -> bytes:
    """Bytes that differ everywhere, for so many parts."""
    size = int(parts * PART_BYTES)
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8 + 1))[:size]


class TestContract(BlobContract):
    resolution_s = 2.2  # S3 counts in whole seconds, and the store gives each blob the benefit of one more
    races = 3

    @pytest.fixture
    def blobs(self, s3: S3Bucket, tmp_path: Path) -> BlobStore:
        return open_bucket(s3.url, tmp_path / "scratch")


# -- what is stored ------------------------------------------------------------------------------------


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


# -- addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/", "/a/b/", "/Über%20uns/音/100%25", "/~%23%2B%3F", "/a=b&c"])
def test_a_prefix_may_be_anything(s3: S3Bucket, tmp_path: Path, prefix: str) -> None:
    blobs = open_bucket(f"s3://{s3.name}{prefix}", tmp_path / "scratch")
    blob = blobs.put(given(tmp_path, b"x"), move=False)
    assert [found.sha256 for found in blobs.list()] == [blob.sha256]
    blobs.put(tmp_path / "given")
    with blobs.open(blob.sha256) as stream:
        assert stream.read() == b"x"
    assert blobs.delete(blob.sha256)
    assert list(blobs.list()) == []


def test_stores_of_two_prefixes_know_nothing_of_each_other(s3: S3Bucket, tmp_path: Path) -> None:
    one, two = (open_bucket(f"s3://{s3.name}/{name}", tmp_path / name) for name in ("a", "ab"))
    one.put(given(tmp_path, b"x"))
    assert list(two.list()) == []


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///prefix", "s3://b c/x", "s3://bucket:9000/x", "s3://bucket/a?endpoint=x", "s3://bucket/#a",
            "s3://bucket/../x", "s3://bucket/a//b", "s3://bucket/a/%2e%2e/b", "s3://bucket/a%00b"]
)  # fmt: skip
def test_an_address_that_cannot_be_a_buckets_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="write s3://BUCKET/PREFIX"):
        open_bucket(url, tmp_path)


def test_an_address_with_credentials_is_refused_without_repeating_them(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="AWS_SECRET_ACCESS_KEY") as caught:
        open_bucket("s3://key:hush@bucket/x", tmp_path)
    assert "hush" not in str(caught.value)


def test_the_settings_choose_the_store_and_its_scratch_lies_in_the_state_folder(
    s3: S3Bucket, tmp_path: Path
) -> None:
    blobs = open_blobs(Settings(storage_url=s3.url, state_dir=tmp_path / "state"))
    assert isinstance(blobs, S3BlobStore)
    with blobs.scratch() as folder:
        assert folder.parent == tmp_path / "state" / "scratch"


def test_without_the_client_the_remedy_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SettingsError, match=r"pip install 'soundmill\[s3\]'"):
        open_bucket("s3://bucket/x", tmp_path)


def test_a_folder_needs_no_client(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from soundmill.storage.blobs import open_blobs; from soundmill.storage.settings import Settings\n"
        f"open_blobs(Settings(storage_url={(tmp_path / 'b').as_uri()!r}))\n"
        "sys.exit('obstore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_variable_of_no_use_is_a_settings_error(
    s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "perhaps")
    with pytest.raises(SettingsError, match="perhaps"):
        open_bucket(s3.url, tmp_path)


def test_an_endpoint_that_is_no_address_says_so(
    s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
    with pytest.raises(StorageUnavailable, match="AWS_ENDPOINT_URL"):
        open_bucket(s3.url, tmp_path).put(given(tmp_path, b"x"))


# -- a server that fails -------------------------------------------------------------------------------


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


FORK = """
import os, sys
from pathlib import Path
from soundmill.storage.s3 import open_bucket
from soundmill.storage.errors import StorageUnavailable
url, scratch, early = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "early"
blobs = open_bucket(url, scratch)
if not early:
    list(blobs.list())
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
for store in (blobs, open_bucket(url, scratch)):
    try:
        list(store.list())
        status = 0
    except StorageUnavailable as error:
        status = 3 if "forked" in str(error) else 4
os._exit(status)
"""


@pytest.mark.parametrize(("moment", "status"), [("early", 0), ("late", 3)])
def test_a_child_forked_after_the_first_use_is_told_instead_of_hanging(
    s3: S3Bucket, tmp_path: Path, moment: str, status: int
) -> None:
    command = [sys.executable, "-c", FORK, s3.url, str(tmp_path), moment]
    assert subprocess.run(command, check=False, timeout=60).returncode == status


def test_every_error_of_the_client_becomes_one_of_ours() -> None:
    from obstore import exceptions

    kinds = [kind for name, kind in vars(exceptions).items() if name[0].isupper()]
    assert len(kinds) > 5
    for kind in kinds:
        assert bucket_module._is_clients(kind("x"))
    for text in ("", "anything", "status code: 418"):
        assert isinstance(translation(text, "b", "read"), StorageUnavailable)
