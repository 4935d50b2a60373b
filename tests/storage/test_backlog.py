"""What waits is told without counting it, and tells the truth."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from soundmill.storage import backlog
from soundmill.storage.database import Database
from soundmill.storage.leader import lead
from soundmill.storage.lifecycle import State
from soundmill.storage.window import mark_published, pick, tables

from .jobs import change, finish, running, submit, submit_many


def seen(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {model: waiting.jobs for model, waiting in backlog.waiting(connection).items()}


def put_out(database: Database, count: int, model: str = "espeak-ng", step: int = 6) -> None:
    with database.write() as connection:
        mark_published(connection, database, pick(connection, {(model, step): count}))


def test_nothing_waits_in_an_empty_table(database: Database) -> None:
    assert seen(database) == {}
    with database.read() as connection:
        assert sum(backlog.jobs_by_state(connection).values()) == 0
        assert backlog.newest_discarded(connection) == {}
        assert backlog.leases(connection, database) == backlog.Leases(held=0, expired=0, oldest_s=0.0)
        assert backlog.leadership_left_s(connection, database) is None


def test_what_waits_is_counted_by_model_with_and_without_a_message(database: Database) -> None:
    submit_many(database, 7, batch="one")
    submit_many(database, 5, batch="two", model="acoustic", kind="caption")
    submit_many(database, 3, batch="both")
    submit_many(database, 4, batch="both", model="acoustic", kind="caption", priority=9)
    submit_many(database, 2)
    running(database)
    finish(database, submit(database))
    assert seen(database) == {"espeak-ng": 12, "acoustic": 9}
    put_out(database, 6)
    put_out(database, 3, "acoustic", 0)
    assert seen(database) == {"espeak-ng": 12, "acoustic": 9}
    put_out(database, 100)
    assert seen(database) == {"espeak-ng": 12, "acoustic": 9}


def test_of_a_batch_that_mixes_models_the_larger_is_what_the_counter_leaves(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "COUNTED_MOST", 5)
    monkeypatch.setattr(backlog, "_COUNT_IN_LINE", _counting(5))
    submit_many(database, 30)
    submit_many(database, 4, model="acoustic", kind="caption")
    assert seen(database) == {"espeak-ng": 30, "acoustic": 4}
    submit_many(database, 20, model="acoustic", kind="caption")
    assert seen(database) == {"espeak-ng": 5, "acoustic": 5}  # no more is known: a lower bound


def _counting(most: int) -> object:
    from sqlalchemy import func, literal_column, select

    some = select(literal_column("1").label("one")).where(*backlog._IN_LINE).limit(most).subquery()
    return select(func.count()).select_from(some)


def test_the_one_that_waits_longest_is_found_at_the_head_of_its_batch(database: Database) -> None:
    now = time.time()
    first = submit_many(database, 3, batch="old")[0]
    submit_many(database, 3, batch="new")
    change(database, first, available_at=now - 500)
    with database.read() as connection:
        since = backlog.waiting(connection)["espeak-ng"].since
    assert since == pytest.approx(now - 500)
    put_out(database, 6)
    with database.read() as connection:
        since = backlog.waiting(connection)["espeak-ng"].since
    assert since == pytest.approx(now - 500)


def test_states_are_summed_over_batches_and_tenants(database: Database) -> None:
    submit_many(database, 3, batch="one")
    submit_many(database, 2, tenant="other")
    finish(database, submit(database))
    with database.read() as connection:
        counts = backlog.jobs_by_state(connection)
    assert {state: count for state, count in counts.items() if count} == {
        State.AVAILABLE: 5,
        State.COMPLETED: 1,
    }


def test_the_newest_discarded_jobs_are_told_by_model_and_reason(database: Database) -> None:
    for code in ("bad_input", "bad_input", None):
        finish(database, submit(database), State.DISCARDED, error_code=code)
    with database.read() as connection:
        assert backlog.newest_discarded(connection) == {
            ("espeak-ng", "bad_input"): 2,
            ("espeak-ng", "none"): 1,
        }


def test_a_lease_that_ran_out_is_seen(database: Database) -> None:
    running(database)
    held = running(database)
    with database.read() as connection:
        now = database.time(connection)
    change(database, held.id, lease_until=now - 60)
    with database.read() as connection:
        found = backlog.leases(connection, database)
    assert (found.held, found.expired) == (2, 1)
    assert found.oldest_s >= 59


def test_the_leaderships_rest_is_told(database: Database) -> None:
    with database.write() as connection:
        lead(connection, database, holder="somebody", lease_s=10)
    with database.read() as connection:
        left_s = backlog.leadership_left_s(connection, database)
    assert left_s is not None
    assert 0 < left_s <= 10


def instructions_of(database: Database, ask: Callable[[Connection], object]) -> int:
    """How many hundreds of instructions SQLite needs for an answer."""
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    with database.read() as connection:
        ask(connection)  # whatever is done once
        raw: Any = connection.connection.driver_connection
        raw.set_progress_handler(count, 100)
        try:
            ask(connection)
        finally:
            raw.set_progress_handler(None, 0)
    return counted


QUESTIONS: dict[str, Callable[[Connection], object]] = {
    "tables": lambda connection: list(tables(connection)),
    "waiting": backlog.waiting,
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_it_takes_does_not_grow_with_the_backlog(
    name: str, tmp_path: Path, sqlite_template: Path
) -> None:
    database = Database(f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'jobs.db')}")
    for model, kind in (("espeak-ng", "tts"), ("acoustic", "caption")):
        submit_many(database, 20, batch=model, model=model, kind=kind)
    few = instructions_of(database, QUESTIONS[name])
    for model, kind in (("espeak-ng", "tts"), ("acoustic", "caption")):
        submit_many(database, 2_000, batch=model, model=model, kind=kind)
    assert instructions_of(database, QUESTIONS[name]) <= 2 * few + 2
    database.close()
