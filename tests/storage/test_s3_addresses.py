"""The address of a bucket, and the client that reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from soundmill.storage import bucket as bucket_module
from soundmill.storage.blobs import open_blobs
from soundmill.storage.bucket import (
    translation,
)
from soundmill.storage.errors import SettingsError, StorageUnavailable
from soundmill.storage.s3 import S3BlobStore, open_bucket
from soundmill.storage.settings import Settings

from ..s3 import S3Bucket
from .objects import given

MIB = 1024**2


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
