"""The outbox: a store that takes nothing for a while costs time and no execution."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from soundmill.models.errors import ShuttingDown
from soundmill.models.handler import Output, Run
from soundmill.storage.blobs import Blob, LocalBlobStore
from soundmill.storage.database import Database
from soundmill.storage.errors import StorageFull
from soundmill.storage.lifecycle import State
from soundmill.worker import outbox as module
from soundmill.worker.executor import Ending
from soundmill.worker.outbox import Outbox

from ..storage.jobs import Background, see
from .bench import bench_on, write
from .running import until


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "TRY_EVERY_S", 0.02)


class FullStore(LocalBlobStore):
    """A store without room until `room` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.room = threading.Event()
        self.tries = 0

    def put(self, path: Path, *, move: bool = True) -> Blob:
        self.tries += 1
        if not self.room.is_set():
            raise StorageFull("no space is left for blobs")
        return super().put(path, move=move)


def go_on() -> None:
    """The attempt was not stopped."""


def a_file(folder: Path) -> Path:
    path = folder / "made"
    path.write_text("sound")
    return path


def test_a_full_store_is_waited_for_and_holds_newcomers_back(tmp_path: Path) -> None:
    store = FullStore(tmp_path / "blobs")
    outbox = Outbox(store)
    waiting = Background(lambda: outbox.put(a_file(tmp_path), go_on))
    until(lambda: store.tries >= 3, 20)
    newcomer = threading.Thread(target=outbox.wait, args=(go_on,))
    newcomer.start()
    assert newcomer.is_alive()

    store.room.set()

    assert store.verify(waiting.result().sha256)
    newcomer.join(20)
    assert not newcomer.is_alive()


def test_a_store_that_stays_full_is_given_up_in_its_own_words(tmp_path: Path) -> None:
    outbox = Outbox(FullStore(tmp_path / "blobs"), patience_s=0.05)
    path = a_file(tmp_path)

    with pytest.raises(StorageFull, match="no space is left"):
        outbox.put(path, go_on)

    assert path.exists()
    outbox.wait(go_on)  # nobody waits any more


def test_room_is_looked_for_before_anybody_begins(tmp_path: Path) -> None:
    outbox = Outbox(LocalBlobStore(tmp_path / "blobs"))
    outbox.refused()

    outbox.wait(go_on)  # there is room by now, which a file of its own told

    assert not outbox._full
    assert list((tmp_path / "blobs" / ".scratch").iterdir()) == []


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    store = FullStore(tmp_path / "blobs")

    def stopped() -> None:
        if store.tries:
            raise ShuttingDown

    with pytest.raises(ShuttingDown):
        Outbox(store).put(a_file(tmp_path), stopped)


def test_a_job_whose_files_find_no_room_is_executed_once(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FullStore(tmp_path / "small")
    with bench_on(sqlite, tmp_path, write()) as bench:
        monkeypatch.setattr(bench.executor, "_outbox", Outbox(store))
        id_ = bench.submit()
        running = Background(lambda: bench.executor.execute(id_))
        until(lambda: store.tries >= 2, 20)
        assert see(sqlite, id_).state == State.EXECUTING
        store.room.set()
        assert running.result().ending == Ending.COMPLETED
        assert len(bench.puppet.requests) == 1
        assert see(sqlite, id_).attempt == 1


def test_a_handler_without_room_for_its_files_is_charged_nothing_and_the_next_one_waits(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(request: Any, run: Run) -> Output:
        if request.text == "large":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write()(request, run)

    room = threading.Event()
    monkeypatch.setattr(Outbox, "_has_room", lambda self: room.is_set())
    with bench_on(sqlite, tmp_path, work) as bench:
        large, small = bench.submit(args={"text": "large"}), bench.submit()
        assert bench.executor.execute(large).ending == Ending.RETRYABLE
        job = see(sqlite, large)
        assert (job.failures, job.error_code) == (0, "storage_unavailable")
        running = Background(lambda: bench.executor.execute(small))
        until(lambda: see(sqlite, small).state == State.EXECUTING, 20)
        assert len(bench.puppet.requests) == 1
        room.set()
        assert running.result().ending == Ending.COMPLETED
