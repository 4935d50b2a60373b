"""Plays the worker: takes jobs and settles them, as the worker would, without one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from sqlalchemy import event, select

from soundmill.producer import Producer
from soundmill.storage.attempts import Made, Settlement, claim, settle
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.rows import Job, Worker
from soundmill.storage.submission import upsert

INCARNATION, CARD = "cpu-0@here#1", "cpu:0"


def write_tone(path: Path, seconds: float = 1.0, hertz: float = 220.0) -> None:
    """A sine at half of full scale, 16 kHz mono."""
    times = np.arange(round(seconds * 16000)) / 16000
    soundfile.write(path, (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32), 16000)


def take(database: Database, ids: Collection[str]) -> dict[str, int]:
    """Claim jobs; the attempts by id of those that could be claimed."""
    with database.write() as connection:
        claimed = claim(connection, database, ids, worker=INCARNATION, card=CARD, lease_s=30)
    return {job_id: job.attempt for job_id, job in claimed.items()}


def finish(producer: Producer, *ids: str, state: State = State.COMPLETED, **values: Any) -> None:
    """Take jobs and settle them in one state."""
    settle_all(producer.database, take(producer.database, ids), state, **values)


def settle_all(database: Database, attempts: dict[str, int], state: State, **values: Any) -> None:
    outcome = "completed" if state == State.COMPLETED else "discarded"
    with database.write() as connection:
        settle(
            connection,
            database,
            [
                Settlement(id=job_id, attempt=attempt, state=state, outcome=outcome, **values)
                for job_id, attempt in attempts.items()
            ],
        )


def finish_with_file(producer: Producer, job_id: str, name: str, content: bytes, folder: Path) -> None:
    """Complete a job that made one file."""
    path = folder / "made"
    path.write_bytes(content)
    blob = producer.blobs.put(path)
    media_type = "audio/wav" if name.endswith(".wav") else "application/json"
    made = Made(name=name, role="audio", sha256=blob.sha256, size=blob.size, media_type=media_type)
    finish(producer, job_id, artifacts=(made,))


def serve(database: Database, *models: str) -> None:
    """Report a live worker."""
    with database.write() as connection:
        values = {
            "name": "cpu-0@here", "incarnation": INCARNATION, "host": "here", "card": CARD, "pid": 1,
            "models": list(models), "slots": 4, "started_at": time.time(),
            "heartbeat_at": database.time(connection),
        }  # fmt: skip
        connection.execute(upsert(database, Worker, values, keys=("name",)))


@contextmanager
def worker_at_work(database: Database, fail: Collection[str] = ()) -> Iterator[None]:
    """Complete, or discard, whatever becomes available, as long as the context lasts.

    Args:
        database: The migrated job table.
        fail: Texts whose jobs are discarded.
    """
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            with database.read() as connection:
                rows = connection.execute(
                    select(Job.id, Job.args).where(Job.state == State.AVAILABLE).limit(500)
                ).all()
            bad = [row.id for row in rows if row.args.get("text") in fail]
            settle_all(database, take(database, {row.id for row in rows} - set(bad)), State.COMPLETED)
            settle_all(
                database, take(database, bad), State.DISCARDED, error="the drill says no", error_code="drill"
            )

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The statements that are executed while the context lasts."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def rows_of(database: Database) -> list[Any]:
    """All jobs, in order of acceptance."""
    with database.read() as connection:
        return list(connection.execute(select(Job.__table__).order_by(Job.seq)).all())


def lines(*objects: Any) -> str:
    """A manifest."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in objects)
