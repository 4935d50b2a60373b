"""Claims and settles of many threads in few transactions."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from soundmill.storage.attempts import Claimed, Settled, claim_and_settle
from soundmill.storage.database import Database
from soundmill.storage.errors import StorageUnavailable, Unstorable
from soundmill.storage.lifecycle import State
from soundmill.worker.ledger import Ledger

from ..storage.jobs import (
    Background,
    assert_counters_are_true,
    change,
    ending,
    see,
    states,
    submit,
    submit_many,
)

LONG_S = 0.1  # longer than in life, so that a busy machine still finds company


class Counting(Ledger):
    """A ledger whose groups can be counted."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.groups: list[int] = []
        super().__init__(*args, **options)

    def _write_once(self, group: Any, **options: Any) -> None:
        self.groups.append(len(group))
        super()._write_once(group, **options)


@contextmanager
def ledger_on(database: Database, in_flight: int = 8, linger_s: float = 0.02) -> Iterator[Counting]:
    ledger = Counting(
        database, worker="w#1", card="cpu:0", lease_s=30, linger_s=linger_s, in_flight=lambda: in_flight
    )
    try:
        yield ledger
    finally:
        ledger.close()


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Call all in threads of their own; results and errors in order."""
    backgrounds = [Background(work) for work in works]
    answers: list[Any] = []
    for background in backgrounds:
        try:
            answers.append(background.result())
        except Exception as error:  # noqa: BLE001 - looked at by the test
            answers.append(error)
    return answers


def claimed(ledger: Ledger, id_: str) -> Claimed:
    job = ledger.claim(id_)
    assert job is not None
    return job


def test_many_claims_and_settles_share_a_transaction(database: Database) -> None:
    ids = submit_many(database, 16)
    with ledger_on(database, linger_s=LONG_S) as ledger:
        jobs = at_once(*(lambda id_=id_: ledger.claim(id_) for id_ in ids))
        at_once(*(lambda job=job: ledger.settle(ending(job)) for job in jobs))
        assert sum(ledger.groups) == 32
        assert max(ledger.groups) >= 4
        assert len(ledger.groups) <= 20
    assert states(database, ids) == [State.COMPLETED] * 16
    assert_counters_are_true(database)


def test_a_job_alone_does_not_wait_for_company(database: Database) -> None:
    with ledger_on(database, in_flight=1, linger_s=LONG_S) as ledger:
        ledger.claim("warm up the connection")
        times = []
        for id_ in submit_many(database, 5):
            begun = time.monotonic()
            claimed(ledger, id_)
            times.append(time.monotonic() - begun)
    assert min(times) < LONG_S


def test_of_two_messages_for_a_job_one_gets_it(database: Database) -> None:
    id_ = submit(database)
    with ledger_on(database) as ledger:
        answers = at_once(*[lambda: ledger.claim(id_)] * 4)
    assert sum(answer is not None for answer in answers) == 1


BAD: dict[str, dict[str, Any]] = {
    "NaN": {"result": {"loss": float("nan")}},
    "an infinity in the metrics": {"metrics": {"x": float("inf")}},
    "an object that is no JSON": {"result": {"x": object()}},
    "a result that is no mapping": {"result": 5},
    "a lone surrogate": {"result": {"text": "\ud800"}},
}
REFUSED_BY_POSTGRES = {"a NUL in the error": {"error": "a\0b"}, "a long code": {"error_code": "x" * 500}}


@pytest.mark.parametrize("what", [*BAD, *REFUSED_BY_POSTGRES])
def test_a_value_that_the_database_refuses_harms_its_own_row_only(database: Database, what: str) -> None:
    ids = submit_many(database, 6)
    with ledger_on(database) as ledger:
        jobs = [claimed(ledger, id_) for id_ in ids]
        settlements = [ending(job) for job in jobs]
        settlements[3] = ending(jobs[3], State.COMPLETED, **(BAD | REFUSED_BY_POSTGRES)[what])
        answers = at_once(*(lambda s=s: ledger.settle(s) for s in settlements))
    if what in REFUSED_BY_POSTGRES and database.dialect == "sqlite":
        assert all(isinstance(answer, Settled) for answer in answers)
        return
    assert isinstance(answers.pop(3), Unstorable)
    assert all(isinstance(answer, Settled) for answer in answers)
    assert states(database, ids) == [*[State.COMPLETED] * 3, State.EXECUTING, *[State.COMPLETED] * 2]
    assert_counters_are_true(database)


def test_whatever_goes_wrong_with_one_row_is_no_end_of_the_ledger(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submit_many(sqlite, 4)
    with ledger_on(sqlite) as ledger:
        jobs = [claimed(ledger, id_) for id_ in ids]

        def stumble(connection: Any, database: Database, claims: Any, settlements: Any) -> Any:
            if any(settlement.id == ids[0] for settlement in settlements):
                raise RecursionError("nested too deeply")
            return claim_and_settle(connection, database, claims, settlements)

        monkeypatch.setattr("soundmill.worker.ledger.claim_and_settle", stumble)
        answers = at_once(*(lambda job=job: ledger.settle(ending(job)) for job in jobs))
        assert isinstance(answers[0], Unstorable)
        assert "nested" not in str(answers[0]), "the words of a database may quote the user's"
        assert all(isinstance(answer, Settled) for answer in answers[1:])


@contextmanager
def locked(database: Database) -> Iterator[None]:
    connection = sqlite3.connect(str(database.url.database), timeout=30, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def test_a_database_that_is_away_is_waited_for(sqlite: Database) -> None:
    running_id, waiting_id = submit_many(sqlite, 2)
    with ledger_on(sqlite) as ledger:
        job = claimed(ledger, running_id)
        with locked(sqlite):
            settle = Background(lambda: ledger.settle(ending(job)))
            claim = Background(lambda: ledger.claim(waiting_id))
            time.sleep(0.6)
            assert settle.waits
            assert claim.waits
        assert settle.result().applied == {running_id}
        assert claim.result().id == waiting_id
    assert see(sqlite, running_id).state == State.COMPLETED


def test_an_answer_that_was_lost_after_the_commit_finishes_nothing_twice(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit arrived, its confirmation did not: the ledger tries again and finds it done."""
    id_ = submit(sqlite)
    with ledger_on(sqlite) as ledger:
        job = claimed(ledger, id_)
        write, lost = sqlite.write, threading.Event()

        @contextmanager
        def write_and_lose_the_answer(**options: Any) -> Iterator[Any]:
            with write(**options) as connection:
                yield connection
            if not lost.is_set():
                lost.set()
                raise StorageUnavailable("the connection was cut")

        monkeypatch.setattr(sqlite, "write", write_and_lose_the_answer)
        assert ledger.settle(ending(job)).applied == frozenset()
        monkeypatch.undo()
    assert see(sqlite, id_).state == State.COMPLETED
    assert_counters_are_true(sqlite)


def test_closing_writes_what_waits_and_refuses_what_comes_later(database: Database) -> None:
    ids = submit_many(database, 2)
    with ledger_on(database) as ledger:
        job = claimed(ledger, ids[0])
        settle = Background(lambda: ledger.settle(ending(job)))
        time.sleep(0.02)
        ledger.close()
        assert settle.result().applied == {ids[0]}
        with pytest.raises(StorageUnavailable):
            ledger.claim(ids[1])
    assert see(database, ids[1]).state == State.AVAILABLE


def test_closing_gives_up_on_a_database_that_stays_away(sqlite: Database) -> None:
    id_ = submit(sqlite)
    with ledger_on(sqlite) as ledger:
        job = claimed(ledger, id_)
        with locked(sqlite):
            settle = Background(lambda: ledger.settle(ending(job)))
            time.sleep(0.1)
            ledger.close()
            with pytest.raises(StorageUnavailable):
                settle.result()


def test_children_of_a_group_are_seen_to_once(database: Database) -> None:
    parents = submit_many(database, 3)
    child = submit(database, parents=tuple(parents))
    with ledger_on(database) as ledger:
        jobs = [claimed(ledger, id_) for id_ in parents]
        answers = at_once(*(lambda job=job: ledger.settle(ending(job)) for job in jobs))
    assert [id_ for answer in answers for id_ in answer.freed] == [child]


def test_an_attempt_that_lost_its_job_settles_nothing(database: Database) -> None:
    id_ = submit(database)
    with ledger_on(database) as ledger:
        job = claimed(ledger, id_)
        change(database, id_, attempt=2)
        assert ledger.settle(ending(job)).applied == frozenset()
    assert see(database, id_).state == State.EXECUTING
