"""A job table of the first version, with rows of every kind in it, becomes one of today and works on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, select, text

from soundmill.storage import schema
from soundmill.storage.database import Database
from soundmill.storage.decisions import retry
from soundmill.storage.errors import StorageUnavailable
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import artifacts_of, attempts_of, parents_of
from soundmill.storage.migrations import HEAD
from soundmill.storage.priorities import step_of
from soundmill.storage.rescue import rescue_expired, wake_due
from soundmill.storage.retention import Policy, walk
from soundmill.storage.schema import migrate, run
from soundmill.storage.window import pick

from .jobs import Background, accepted, assert_counters_are_true, finish, new_job, see, take

STATES = ("scheduled", "available", "executing", "retryable", "completed", "cancelled", "discarded")
HASH = "ab" * 32


def job(number: int, state: str, **changes: Any) -> dict[str, Any]:
    """A row as version 0001 knew it."""
    return {
        "seq": number, "id": f"{number:026}", "tenant": "default", "batch_id": "default/old", "custom_id": None,
        "kind": "tts", "model": "espeak-ng", "args": '{"text": "héllo \\" wörld"}', "args_version": 1,
        "args_digest": "d" * 64, "state": state, "priority": 4, "attempt": 0, "failures": 0, "crashes": 0,
        "max_failures": 3, "suspect": False, "alone": False, "pending_parents": 0, "submitted_at": 5.0,
        "scheduled_at": None, "available_at": 5.0, "published_at": None, "started_at": None,
        "finished_at": 9.0 if State(state).final else None, "deadline_at": None, "lease_until": None,
        "cancel_requested_at": None, "worker": None, "card": None, "progress": None, "result": None,
        "metrics": None, "model_revision": None, "error_code": None, "error": None, "idempotency_key": None,
    } | changes  # fmt: skip


JOBS = [
    job(
        1,
        "completed",
        attempt=2,
        result='{"audio_s": 1.5}',
        idempotency_key="k",
        worker="w#1",
        custom_id="one",
    ),
    job(2, "scheduled", pending_parents=1),
    job(3, "executing", attempt=1, lease_until=6.0, worker="w#1", started_at=5.5),
    job(4, "retryable", attempt=1, failures=1, available_at=6.0),
    job(5, "discarded", attempt=3, failures=3, error_code="handler_error", error="no"),
    job(6, "cancelled", cancel_requested_at=8.0),
    job(7, "available", priority=9),
]
ROWS: dict[str, list[dict[str, Any]]] = {
    "batches": [
        {"id": "default/old", "tenant": "default", "name": "old", "created_at": 4.0, "turn": 3}
        | {state: sum(row["state"] == state for row in JOBS) for state in STATES}
    ],
    "jobs": JOBS,
    "attempts": [
        {"job_id": JOBS[0]["id"], "attempt": number, "worker": "w#1", "card": "cpu:0", "outcome": outcome,
         "error_code": None, "started_at": 6.0, "finished_at": 7.0}
        for number, outcome in ((1, "failed"), (2, "completed"))
    ],
    "job_parents": [{"child": JOBS[1]["id"], "parent": JOBS[2]["id"]}],
    "blobs": [{"sha256": HASH, "size": 7, "touched_at": 7.0}],
    "artifacts": [
        {"job_id": JOBS[0]["id"], "name": "a.wav", "role": "audio", "sha256": HASH, "size": 7,
         "media_type": "audio/wav", "attempt": 2, "created_at": 7.0}
    ],
    "queues": [{"model": "acoustic", "paused": True, "changed_at": 3.0}],
    "workers": [
        {"name": "cpu-0@here", "incarnation": "w#1", "host": "here", "card": "cpu:0", "pid": 1, "models": "[]",
         "slots": 1, "started_at": 1.0, "heartbeat_at": 2.0, "draining": True}
    ],
    "leader": [{"role": "dispatcher", "holder": "here", "lease_until": 9.0}],
}  # fmt: skip


def fill(connection: Connection) -> None:
    """The tables of version 0001 and their rows, past the code of today."""
    run(connection, "0001")
    tables = MetaData()
    tables.reflect(connection)
    for name, rows in ROWS.items():
        connection.execute(tables.tables[name].insert(), rows)
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT setval('jobs_seq_seq', 7)"))


def rows_of(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Everything that is there, by the columns of version 0001."""
    tables = MetaData()
    found = {}
    with database.read() as connection:
        tables.reflect(connection)
        for name, rows in ROWS.items():
            table = tables.tables[name]
            columns = [table.c[column] for column in rows[0]]
            query = select(*columns).order_by(*table.primary_key.columns)
            found[name] = [dict(row._mapping) for row in connection.execute(query)]
    return found


@pytest.fixture
def old(database_url: str) -> Iterator[Database]:
    """A job table of the first version."""
    database = Database(database_url)
    with database.write() as connection:
        fill(connection)
    yield database
    database.close()


def test_every_row_is_still_there_whoever_migrates_at_once(old: Database, database_url: str) -> None:
    code = (
        "import sys; from soundmill.storage.database import Database\n"
        "from soundmill.storage.schema import migrate; migrate(Database(sys.argv[1]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, database_url], stderr=subprocess.PIPE) for _ in range(2)
    ]
    for process in processes:
        _, words = process.communicate(timeout=90)
        assert process.returncode == 0, words.decode()

    assert rows_of(old) == ROWS
    with old.read() as connection:
        assert schema.version_of(connection) == HEAD
        added = connection.execute(text("SELECT DISTINCT kills, pruned_at FROM jobs")).all()
    assert [tuple(row) for row in added] == [(0, None)]


def test_the_queue_goes_on_where_it_was(old: Database) -> None:
    migrate(old)
    done, child, running, backing_off, failed, cancelled, waiting = [row["id"] for row in JOBS]

    with old.read() as connection:
        assert [wake.id for wake in pick(connection, {("espeak-ng", step_of(9)): 5})] == [waiting]
        assert [row.outcome for row in attempts_of(connection, done)] == ["failed", "completed"]
        assert [file.sha256 for file in artifacts_of(connection, done)] == [HASH]
        assert parents_of(connection, child) == [running]
    assert see(old, done).args == {"text": 'héllo " wörld'}
    again = accepted(old, new_job(idempotency_key="k", digest="d" * 64))[0]
    assert (again.id, again.fresh) == (done, False)

    with old.write() as connection:
        assert rescue_expired(connection, old) == [running]
        assert wake_due(connection, old) == 1
        assert retry(connection, old, [failed]) == [failed]
    finish(old, running)
    assert see(old, child).state == State.AVAILABLE, "its parent is done"
    for id_ in (backing_off, failed, waiting, child):
        finish(old, id_)
    assert see(old, cancelled).state == State.CANCELLED
    assert accepted(old, new_job())[0].seq > 7
    assert_counters_are_true(old)

    pages = list(walk(old, Policy(kept_s={"completed": 3600.0, "cancelled": 3600.0})))
    assert sum(page.jobs for page in pages) == 2
    assert_counters_are_true(old)


def test_a_worker_of_the_version_before_can_go_on_until_it_is_replaced(old: Database) -> None:
    """It names its columns, and knows nothing of new ones: what it inserts gets their defaults."""
    migrate(old)
    columns = [name for name in JOBS[0] if name != "seq"]
    row = job(8, "available", id="z" * 26)
    values = ", ".join(f":{name}" for name in columns)
    with old.write() as connection:
        connection.execute(
            text(f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({values})"), {c: row[c] for c in columns}
        )
    assert take(old, row["id"])[row["id"]].attempt == 1


def test_a_transaction_that_has_the_tables_is_waited_for(old: Database, database_url: str) -> None:
    impatient = Database(database_url, busy_s=0.2)
    with old.write() as connection:
        connection.execute(text("UPDATE jobs SET priority = 5 WHERE seq = 7"))
        migration = Background(lambda: migrate(impatient))
        time.sleep(1.0)
        assert migration.waits
    migration.result()
    impatient.close()
    with old.read() as connection:
        assert schema.version_of(connection) == HEAD
    assert see(old, JOBS[6]["id"]).priority == 5


def test_a_transaction_that_never_ends_is_named_as_the_reason(
    old: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "PATIENCE_S", 0.5)
    impatient = Database(database_url, busy_s=0.2)
    with old.write() as connection:
        connection.execute(text("UPDATE jobs SET priority = 5 WHERE seq = 7"))
        with pytest.raises(StorageUnavailable, match="end the transactions that are open on it"):
            migrate(impatient)
    migrate(impatient)
    impatient.close()
