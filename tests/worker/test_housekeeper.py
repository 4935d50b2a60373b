"""The leader's slow work: prunes, collects and forgets, in a thread of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from soundmill.storage.attempts import Made
from soundmill.storage.blobs import LocalBlobStore
from soundmill.storage.database import Database
from soundmill.storage.errors import NotFound, StorageUnavailable
from soundmill.storage.retention import DAY_S
from soundmill.storage.rows import Blob, Job
from soundmill.storage.settings import Settings
from soundmill.worker import housekeeper as module
from soundmill.worker.housekeeper import Housekeeper, policy_of

from ..storage.jobs import change, finish, see, submit
from .running import until

LONG_AGO = 40 * DAY_S


def old_job(database: Database, blobs: LocalBlobStore, content: bytes) -> tuple[str, str]:
    """A job that ended long ago, and the hash of its file, which is as old."""
    with blobs.scratch() as folder:
        (folder / "made").write_bytes(content)
        stored = blobs.put(folder / "made")
    id_ = submit(database)
    made = Made(name="a", role="audio", sha256=stored.sha256, size=stored.size, media_type="audio/wav")
    finish(database, id_, artifacts=(made,))
    then = time.time() - LONG_AGO
    change(database, id_, submitted_at=then, finished_at=then)
    return id_, stored.sha256


def age_blob(database: Database, blobs: LocalBlobStore, sha256: str) -> None:
    then = time.time() - LONG_AGO
    with blobs.fetch(sha256) as path:
        os.utime(path, (then, then))
    with database.write() as connection:
        connection.execute(update(Blob).where(Blob.sha256 == sha256).values(touched_at=then))


def keeper(database: Database, folder: Path, *, leads: bool = True, **changes: Any) -> Housekeeper:
    values: dict[str, Any] = {"state_dir": folder, "prune_every_s": 0.05, "collect_every_s": 0.01} | changes
    return Housekeeper(database, Settings(**values), lambda: leads)


def there(database: Database, id_: str) -> bool:
    with database.read() as connection:
        return connection.execute(select(Job.id).where(Job.id == id_)).first() is not None


def test_a_leader_prunes_what_the_settings_say_and_collects_what_is_left(
    database: Database, tmp_path: Path
) -> None:
    blobs = LocalBlobStore(tmp_path / "artifacts")
    id_, sha256 = old_job(database, blobs, b"sound")
    housekeeper = keeper(database, tmp_path, keep_days={"completed": 30})

    housekeeper.start()
    until(lambda: not there(database, id_), 20)
    blobs.open(sha256).close()  # its grace has only begun
    age_blob(database, blobs, sha256)
    until(lambda: _is_gone(blobs, sha256), 20)
    housekeeper.stop()
    assert not housekeeper._thread.is_alive()


def _is_gone(blobs: LocalBlobStore, sha256: str) -> bool:
    try:
        blobs.open(sha256).close()
    except NotFound:
        return True
    return False


def test_without_the_setting_nothing_is_ever_pruned_and_files_of_jobs_stay(
    database: Database, tmp_path: Path
) -> None:
    blobs = LocalBlobStore(tmp_path / "artifacts")
    id_, sha256 = old_job(database, blobs, b"sound")
    age_blob(database, blobs, sha256)
    housekeeper = keeper(database, tmp_path)
    time.sleep(0.02)
    housekeeper.tidy()
    assert see(database, id_).finished_at is not None
    blobs.open(sha256).close()


def test_whoever_does_not_lead_leaves_it_to_the_leader(sqlite: Database, tmp_path: Path) -> None:
    id_, _ = old_job(sqlite, LocalBlobStore(tmp_path / "artifacts"), b"sound")
    housekeeper = keeper(sqlite, tmp_path, leads=False, keep_days={"completed": 30})
    housekeeper.start()
    time.sleep(0.5)
    housekeeper.stop()
    assert there(sqlite, id_)


@pytest.mark.parametrize("strays", [True, False])
def test_strays_are_collected_only_where_they_must_be_ours(
    sqlite: Database, tmp_path: Path, strays: bool
) -> None:
    shared = tmp_path / "shared"
    blobs = LocalBlobStore(shared)
    with blobs.scratch() as folder:
        (folder / "made").write_bytes(b"of another job table")
        stored = blobs.put(folder / "made")
    then = time.time() - LONG_AGO
    with blobs.fetch(stored.sha256) as path:
        os.utime(path, (then, then))
    changes = {"collect_strays": True} if strays else {}  # a storage that was named is not known to be ours
    housekeeper = keeper(sqlite, tmp_path, storage_url=shared.as_uri(), **changes)
    time.sleep(0.02)
    housekeeper.tidy()
    assert _is_gone(blobs, stored.sha256) is strays


def test_the_default_storage_is_known_to_be_ours(tmp_path: Path) -> None:
    assert Settings(state_dir=tmp_path).collect_strays
    assert not Settings(state_dir=tmp_path, storage_url="s3://bucket/prefix").collect_strays


def test_a_database_that_is_away_ends_nothing(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def away(*_: Any, **__: Any) -> Any:
        tries.append(1)
        raise StorageUnavailable("away") if len(tries) < 3 else RuntimeError("unforeseen")

    monkeypatch.setattr(module, "walk", away)
    housekeeper = keeper(sqlite, tmp_path, keep_days={"completed": 30})
    housekeeper.start()
    until(lambda: len(tries) > 4, 20)
    housekeeper.stop()


def test_days_become_seconds() -> None:
    assert policy_of(Settings(keep_days={"completed": 2, "discarded": 0.5})).kept_s == {
        "completed": 2 * DAY_S,
        "discarded": DAY_S / 2,
    }
