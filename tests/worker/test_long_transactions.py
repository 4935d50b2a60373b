"""Transactions elsewhere that go on for long: what they hold has to wait, and nothing else does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError

from soundmill.models.errors import Cancelled
from soundmill.models.handler import Output
from soundmill.storage.attempts import Settled
from soundmill.storage.database import Database
from soundmill.storage.decisions import cancel
from soundmill.storage.errors import StorageUnavailable
from soundmill.storage.lifecycle import State
from soundmill.storage.queue import Publisher
from soundmill.storage.rows import Batch, Job
from soundmill.storage.settings import Settings
from soundmill.storage.submission import accept
from soundmill.worker.attempt import Attempt, Attempts
from soundmill.worker.dispatcher import Dispatcher
from soundmill.worker.heartbeat import Heartbeat, Identity
from soundmill.worker.ledger import Ledger
from soundmill.worker.pulse import Pulse

from ..job_table import empty
from ..postgres import PostgresServer
from ..storage.jobs import (
    Background,
    assert_counters_are_true,
    change,
    ending,
    field,
    new_job,
    see,
    states,
    submit,
    submit_many,
    take,
)
from .bench import Mailbox, bench_on
from .running import until

WORKER = "w#1"


@pytest.fixture
def postgres(shared_postgres_url: str, postgres_server: PostgresServer) -> Iterator[Database]:
    """A job table on PostgreSQL whose clients give up a lock soon."""
    empty(shared_postgres_url)
    database = Database(shared_postgres_url, busy_s=0.5)
    yield database
    database.close()


@contextmanager
def ledger_on(database: Database) -> Iterator[Ledger]:
    ledger = Ledger(database, worker=WORKER, card="cpu:0", lease_s=30, linger_s=0.05, in_flight=lambda: 8)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def patient(database: Database) -> Iterator[Database]:
    """Another client of the same table, which waits for locks as long as usual."""
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        yield other
    finally:
        other.close()


@contextmanager
def held(database: Database, row: Any) -> Iterator[None]:
    """Somebody else's open transaction, which has locked a row and does nothing."""
    with patient(database) as other, other.write() as connection:
        connection.execute(row.with_for_update()).all()
        yield


def settling(ledger: Ledger, job: Any) -> Background:
    return Background(lambda: ledger.settle(ending(job)))


def test_a_locked_job_waits_and_the_others_of_its_group_get_on(postgres: Database) -> None:
    ids = submit_many(postgres, 4)
    locked_id, waiting = ids[0], submit(postgres)
    with ledger_on(postgres) as ledger:
        jobs = take(postgres, *ids, worker=WORKER)
        with held(postgres, select(Job.id).where(Job.id == locked_id)):
            late = settling(ledger, jobs[locked_id])
            others = [settling(ledger, jobs[id_]) for id_ in ids[1:]]
            claim = Background(lambda: ledger.claim(waiting))
            assert [other.result().applied for other in others] == [{id_} for id_ in ids[1:]]
            assert claim.result().id == waiting
            assert late.waits
            # And whoever comes later does not wait for it at all.
            assert ledger.claim(submit(postgres)) is not None
        assert late.result().applied == {locked_id}
    assert see(postgres, locked_id).state == State.COMPLETED
    assert_counters_are_true(postgres)


def test_a_claim_of_a_locked_job_is_given_up_since_its_message_is_repeated(postgres: Database) -> None:
    id_ = submit(postgres)
    with ledger_on(postgres) as ledger:
        with held(postgres, select(Job.id).where(Job.id == id_)):
            assert ledger.claim(id_) is None
        assert ledger.claim(id_) is not None


def test_a_locked_batch_holds_up_its_own_jobs_only(postgres: Database) -> None:
    mine, other = submit_many(postgres, 6, batch="locked"), submit_many(postgres, 3, batch="free")
    with ledger_on(postgres) as ledger:
        jobs = take(postgres, *mine, *other, worker=WORKER)
        with held(postgres, select(Batch.id).where(Batch.id == "default/locked")):
            late = [settling(ledger, jobs[id_]) for id_ in mine]
            free = [settling(ledger, jobs[id_]) for id_ in other]
            assert [answer.result().applied for answer in free] == [{id_} for id_ in other]
            assert all(answer.waits for answer in late[:2])
        assert [answer.result().applied for answer in late] == [{id_} for id_ in mine]
    assert states(postgres, [*mine, *other]) == [State.COMPLETED] * 9
    assert_counters_are_true(postgres)


def test_what_waits_for_a_lock_is_left_to_the_lease_when_the_worker_closes(postgres: Database) -> None:
    id_ = submit(postgres)
    with ledger_on(postgres) as ledger:
        job = take(postgres, id_, worker=WORKER)[id_]
        with held(postgres, select(Job.id).where(Job.id == id_)):
            late = settling(ledger, job)
            time.sleep(0.8)
            ledger.close()
            with pytest.raises(StorageUnavailable):
                late.result()
    assert see(postgres, id_).state == State.EXECUTING


# --- leases


class Beating:
    """A heartbeat and what it renews."""

    def __init__(self, database: Database) -> None:
        self.database, self.pulse, self.attempts = database, Pulse(None), Attempts()
        identity = Identity(
            name="cpu-0@here", incarnation=WORKER, host="here", card="cpu:0", models=("espeak-ng",), slots=3
        )
        self.heartbeat = Heartbeat(
            database, identity, self.attempts, every_s=10, lease_s=30, on_draining=lambda _: None
        )

    def run(self, stack: ExitStack) -> Attempt:
        id_ = submit(self.database)
        claimed = take(self.database, id_, worker=WORKER, lease_s=1.0)[id_]
        attempt = Attempt(claimed, self.pulse, step_limit_s=60, load_limit_s=600)
        stack.enter_context(self.attempts.holding(attempt))
        return attempt


def test_a_locked_job_costs_no_other_its_lease_and_is_not_taken_for_lost(postgres: Database) -> None:
    beating = Beating(postgres)
    with ExitStack() as stack:
        locked_one, other = beating.run(stack), beating.run(stack)
        before = {a.key: field(postgres, a.job.id, "lease_until") for a in (locked_one, other)}
        with held(postgres, select(Job.id).where(Job.id == locked_one.job.id)):
            assert not beating.heartbeat.beat()
        locked_one.raise_if_stopped()
        other.raise_if_stopped()
        assert field(postgres, locked_one.job.id, "lease_until") == before[locked_one.key]
        assert field(postgres, other.job.id, "lease_until") > before[other.key] + 20
        assert beating.heartbeat.beat()
        assert field(postgres, locked_one.job.id, "lease_until") > before[locked_one.key] + 20


def test_a_cancel_is_heard_of_although_the_row_is_locked(postgres: Database) -> None:
    beating = Beating(postgres)
    with ExitStack() as stack:
        one = beating.run(stack)
        with postgres.write() as connection:
            cancel(connection, postgres, [one.job.id])
        with held(postgres, select(Job.id).where(Job.id == one.job.id)):
            beating.heartbeat.beat()
        with pytest.raises(Cancelled):
            one.raise_if_stopped()


# --- dispatcher and reaper


def test_a_locked_batch_stops_neither_dispatcher_nor_reaper(postgres: Database) -> None:
    """A backend that submits inside its own transaction holds its batch until it commits."""
    submit(postgres, batch="locked")
    expired = submit(postgres, batch="free")
    take(postgres, expired)
    mailbox = Mailbox()
    settings = Settings(database_url=postgres.url.render_as_string(hide_password=False))
    dispatcher = Dispatcher(postgres, cast(Publisher, mailbox), settings, ["espeak-ng"], "here")
    with held(postgres, select(Batch.id).where(Batch.id == "default/locked")):
        assert dispatcher.tick() == 1
        late = submit(postgres, batch="free")
        dispatcher.tick()
        assert late in {wake.id for wake in mailbox.sent}
        change(postgres, expired, lease_until=1.0)
        dispatcher._due.clear()
        dispatcher.tick()
        assert see(postgres, expired).state == State.AVAILABLE


def test_a_child_in_the_callers_own_transaction_holds_up_its_parents_settle_only(postgres: Database) -> None:
    parent, other = submit(postgres, batch="a"), submit(postgres, batch="b")
    with ledger_on(postgres) as ledger:
        jobs = take(postgres, parent, other, worker=WORKER)
        with patient(postgres) as caller, caller.write() as connection:
            accept(connection, caller, [new_job(id="0" * 26, batch="c", parents=(parent,))])
            late = settling(ledger, jobs[parent])
            assert settling(ledger, jobs[other]).result().applied == {other}
            assert late.waits
        answer: Settled = late.result()
    assert answer.freed == ("0" * 26,), "the settle saw the child that was committed before it"
    assert_counters_are_true(postgres)


def test_a_client_that_dies_in_the_middle_of_its_transaction_leaves_no_lock(postgres: Database) -> None:
    id_ = submit(postgres)
    raw = psycopg.connect(str(postgres.url.render_as_string(hide_password=False)).replace("+psycopg", ""))
    raw.execute("SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", (id_,))
    raw.close()
    with ledger_on(postgres) as ledger:
        assert ledger.claim(id_) is not None


# --- connections


def everything_of(url: str) -> list[Any]:
    """All connections that the server has left."""
    taken: list[Any] = []
    try:
        while True:
            taken.append(psycopg.connect(url.replace("+psycopg", "")))
    except psycopg.OperationalError:
        return taken


def test_a_server_without_connections_is_waited_for_and_leaks_no_slot(
    postgres: Database, tmp_path: Path
) -> None:
    gate = threading.Event()

    def work(request: Any, run: Any) -> Any:
        gate.wait(20)
        return Output(result={})

    with bench_on(postgres, tmp_path, work, slots=2) as bench:
        ids = [bench.submit() for _ in range(6)]
        running = [Background(partial(bench.executor.execute, id_)) for id_ in ids[:2]]
        until(lambda: len(bench.puppet.requests) == 2, 20)
        bench.database.engine.dispose()
        taken = everything_of(postgres.url.render_as_string(hide_password=False))
        try:
            assert len(taken) > 50
            with pytest.raises(StorageUnavailable, match="did not answer"):
                submit(postgres)
            gate.set()
            queued = [Background(partial(bench.executor.execute, id_)) for id_ in ids[2:]]
            assert all(background.waits for background in (*running, *queued))
        finally:
            for connection in taken:
                connection.close()
        for background in (*running, *queued):
            assert background.result().ending.value == "completed"
        assert len(bench.attempts) == 0
        assert all(slots._value == 2 for slots in bench.executor._slots.values())
    assert states(postgres, ids) == [State.COMPLETED] * 6


def test_a_pool_that_is_used_up_is_unavailable_in_a_sentence_and_well_afterwards(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool: Any = database.engine.pool
    monkeypatch.setattr(pool, "_timeout", 0.2)
    with ExitStack() as stack:
        for _ in range(pool.size() + pool._max_overflow):
            stack.enter_context(database.read()).execute(text("SELECT 1"))
        with pytest.raises(StorageUnavailable, match="the job table has no connection free"):
            submit(database)
    assert see(database, submit(database)).state == State.AVAILABLE
    assert pool.checkedout() == 0


# --- deadlocks and serialisation failures


@pytest.fixture
def failing(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], list[int]]:
    """Lets the next transactions fail at their commit, as the server would say it."""

    def fail(sqlstate: str, times: int) -> list[int]:
        left = [times]
        write = postgres.write

        @contextmanager
        def write_and_fail(**options: Any) -> Iterator[Any]:
            with write(**options) as connection:
                yield connection
                if left[0]:
                    left[0] -= 1
                    connection.execute(text(f"DO $$ BEGIN RAISE 'no' USING ERRCODE = '{sqlstate}'; END $$"))

        monkeypatch.setattr(postgres, "write", write_and_fail)
        return left

    return fail


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
def test_a_ledger_does_it_again_after_a_deadlock_or_a_serialisation_failure(
    postgres: Database, failing: Callable[[str, int], list[int]], sqlstate: str
) -> None:
    id_ = submit(postgres)
    left = failing(sqlstate, 2)
    with ledger_on(postgres) as ledger:
        job = ledger.claim(id_)
        assert job is not None
        left[0] = 2
        assert ledger.settle(ending(job)).applied == {id_}
    assert left == [0]
    assert see(postgres, id_).attempt == 1
    assert_counters_are_true(postgres)


def test_a_deadlock_between_a_settle_and_a_stranger_is_over_by_itself(postgres: Database) -> None:
    """The stranger locks the batch and then the job, the settle the other way round."""
    id_ = submit(postgres, batch="b")
    job = take(postgres, id_, worker=WORKER)[id_]
    with patient(postgres) as ours, patient(postgres) as theirs, ledger_on(ours) as ledger:
        with theirs.engine.connect() as stranger:
            stranger.execute(select(Batch.id).where(Batch.id == "default/b").with_for_update())
            settle = settling(ledger, job)
            time.sleep(0.3)  # it holds the job, and waits for the batch
            with suppress(OperationalError):  # one of the two is the victim, and either will do
                stranger.execute(update(Job).where(Job.id == id_).values(priority=5))
                stranger.commit()
            stranger.rollback()
            assert settle.result().applied == {id_}
    assert_counters_are_true(postgres)
