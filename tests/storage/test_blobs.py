from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

from soundmill.storage import blobs as blobs_module
from soundmill.storage.blobs import LocalBlobStore, open_blobs
from soundmill.storage.errors import NotFound, SettingsError, StorageFull, StorageUnavailable
from soundmill.storage.settings import Settings

from .blob_contract import BlobContract, sha256

DAY_S = 24 * 3600


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


def stored(blobs: LocalBlobStore, content: bytes) -> Path:
    """Put the content and give the blob's own file."""
    with blobs.scratch() as folder:
        (folder / "new").write_bytes(content)
        with blobs.fetch(blobs.put(folder / "new").sha256) as path:
            return path


def aged(path: Path, age_s: float = 2 * DAY_S) -> Path:
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


class TestContract(BlobContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> LocalBlobStore:
        return LocalBlobStore(tmp_path / "blobs")


def test_blobs_are_sharded_and_read_only(blobs: LocalBlobStore) -> None:
    path = stored(blobs, b"x")
    name = sha256(b"x")
    assert path == blobs.root / name[:2] / name
    assert path.stat().st_mode & 0o777 == 0o440
    assert files(blobs.root) == [path]


def test_a_file_that_is_moved_in_is_not_copied_and_counts_as_new(blobs: LocalBlobStore) -> None:
    with blobs.scratch() as folder:
        path = folder / "made"
        path.write_bytes(b"x")
        inode = aged(path).stat().st_ino
        blob = blobs.put(path)
    with blobs.fetch(blob.sha256) as found:
        assert found.stat().st_ino == inode
        assert found.stat().st_mtime > time.time() - 60


def test_a_file_from_another_file_system_is_copied_in_and_then_gone(blobs: LocalBlobStore) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == blobs.root.stat().st_dev:
        pytest.skip("this host has no second file system to move from")
    path = memory / f"soundmill-test-{os.getpid()}"
    path.write_bytes(b"from afar")
    blob = blobs.put(path)
    assert not path.exists()
    with blobs.open(blob.sha256) as stream:
        assert stream.read() == b"from afar"


def test_a_blob_cut_short_is_noticed_and_written_anew(blobs: LocalBlobStore, tmp_path: Path) -> None:
    path = stored(blobs, b"all of it")
    assert blobs.verify(path.name)
    path.chmod(0o600)
    path.write_bytes(b"all")
    assert not blobs.verify(path.name)
    (tmp_path / "again").write_bytes(b"all of it")
    blobs.put(tmp_path / "again")
    assert blobs.verify(path.name)


def test_only_files_are_put_and_links_are_not_followed(blobs: LocalBlobStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/hostname")
    for name in ("pipe", "link", "."):
        with pytest.raises(StorageUnavailable):
            blobs.put(tmp_path / name)
    assert files(blobs.root) == []


def test_links_in_the_fan_out_lead_nowhere(blobs: LocalBlobStore, tmp_path: Path) -> None:
    path = stored(blobs, b"x")
    away = tmp_path / "away"
    path.parent.rename(away)
    path.parent.symlink_to(away)
    assert list(blobs.list()) == []
    for use in (blobs.open, blobs.delete, blobs.verify):
        with pytest.raises(StorageUnavailable, match="is a link"):
            use(path.name)
    path.parent.unlink()
    path.parent.mkdir()
    path.symlink_to(away / path.name)
    with pytest.raises(StorageUnavailable):
        blobs.open(path.name)


def test_foreign_files_in_the_folder_are_neither_listed_nor_touched(blobs: LocalBlobStore) -> None:
    path = stored(blobs, b"x")
    (path.parent / "README").write_text("by hand")
    (path.parent / ("f" * 64)).write_text("in the wrong folder")
    (blobs.root / "lost+found").mkdir()
    assert [blob.sha256 for blob in blobs.list()] == [path.name]


@pytest.mark.parametrize("move", [True, False])
def test_a_full_disk_leaves_nothing_half_written(
    blobs: LocalBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: bool
) -> None:
    path = tmp_path / "given"
    path.write_bytes(b"some sound")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(StorageFull, match="free some") as caught:
            blobs.put(path, move=move)
    assert isinstance(caught.value.__cause__, OSError)
    assert files(blobs.root) == []
    assert path.read_bytes() == b"some sound"
    blobs.put(path, move=move)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full_leaves_nothing_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("this host does not let us mount")
    try:
        blobs = LocalBlobStore(disk / "blobs")
        (tmp_path / "large").write_bytes(b"x" * 2_000_000)
        with pytest.raises(StorageFull):
            blobs.put(tmp_path / "large")
        assert files(blobs.root) == []
        assert (tmp_path / "large").stat().st_size == 2_000_000
    finally:
        subprocess.run(["umount", disk], check=True)


def test_other_errors_of_the_system_say_that_the_store_is_unavailable(
    blobs: LocalBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").write_bytes(b"x")

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageUnavailable, match="could not be written: Input/output error") as caught:
        blobs.put(tmp_path / "given")
    assert not isinstance(caught.value, StorageFull)


def test_scratch_folders_are_private_to_the_caller_and_gone_afterwards(blobs: LocalBlobStore) -> None:
    with blobs.scratch() as one, blobs.scratch() as two:
        assert one != two
        assert one.stat().st_mode & 0o777 == 0o700
        assert one.stat().st_dev == blobs.root.stat().st_dev
        (one / "left").write_text("x")
    assert not one.exists()


def test_scratch_of_killed_processes_is_swept_after_a_day(blobs: LocalBlobStore) -> None:
    stale, young = (blobs.root / ".scratch" / name for name in ("stale", "young"))
    for folder in (stale, young):
        folder.mkdir()
        (folder / "half").write_text("x")
    half_copied = blobs.root / ".scratch/tmp-copy"
    half_copied.write_text("x")
    for path in (stale, half_copied):
        aged(path)
    with blobs.scratch():
        assert not stale.exists()
        assert not half_copied.exists()
        assert young.exists()


@pytest.fixture
def old(blobs: LocalBlobStore) -> Path:
    """A blob that nobody has put for days."""
    return aged(stored(blobs, b"contested"))


@pytest.fixture
def again(tmp_path: Path) -> Path:
    path = tmp_path / "again"
    path.write_bytes(b"contested")
    return path


def test_a_put_between_the_look_and_the_removal_keeps_the_blob(
    blobs: LocalBlobStore, old: Path, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def put_first(source: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        blobs.put(again)
        return source.rename(target)

    monkeypatch.setattr(Path, "rename", put_first)
    assert not blobs.delete(old.name, older_than=time.time() - DAY_S)
    assert blobs.verify(old.name)
    assert files(blobs.root) == [old]


def test_a_put_while_the_blob_is_aside_brings_its_own_bytes(
    blobs: LocalBlobStore, old: Path, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modified = blobs_module._modified

    def put_first(path: Path) -> float:
        blobs.put(again)
        return modified(path)

    monkeypatch.setattr(blobs_module, "_modified", put_first)
    assert blobs.delete(old.name, older_than=time.time() - DAY_S)
    assert blobs.verify(old.name)
    assert files(blobs.root) == [old]


@pytest.fixture
def left_aside(blobs: LocalBlobStore, old: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The blob of a process that was killed in the middle of deleting it."""

    def killed(path: Path) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(blobs_module, "_modified", killed)
        with pytest.raises(KeyboardInterrupt):
            blobs.delete(old.name, older_than=time.time())
    assert not old.exists()
    return old


def test_what_a_killed_process_left_aside_is_still_read(blobs: LocalBlobStore, left_aside: Path) -> None:
    assert blobs.verify(left_aside.name)
    assert files(blobs.root) == [left_aside]


def test_what_a_killed_process_left_aside_is_still_listed(blobs: LocalBlobStore, left_aside: Path) -> None:
    assert [blob.sha256 for blob in blobs.list()] == [left_aside.name]
    assert files(blobs.root) == [left_aside]


def test_the_address_of_a_folder_may_hold_escaped_characters(tmp_path: Path) -> None:
    folder = tmp_path / "with space & 100%"
    blobs = open_blobs(Settings(storage_url=folder.as_uri()))
    assert isinstance(blobs, LocalBlobStore)
    assert blobs.root == folder
    assert stored(blobs, b"x").is_relative_to(folder)


@pytest.mark.parametrize("url", ["gs://me:secret@bucket", "file://host/x", "file:relative", "/plain", ""])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="file:///FOLDER") as caught:
        open_blobs(Settings(storage_url=url))
    assert "secret" not in str(caught.value)


def test_a_root_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageUnavailable, match="could not be prepared"):
        LocalBlobStore(tmp_path / "file" / "blobs")


def test_a_missing_blob_is_told_apart_from_a_broken_store(blobs: LocalBlobStore) -> None:
    with pytest.raises(NotFound, match="no blob"):
        blobs.open(sha256(b"absent"))
