"""Builders: jobs in the state that a test needs, brought there by the functions under test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from sqlalchemy import Connection, func, select, update
from ulid import ULID

from soundmill.storage.attempts import Claimed, Settled, Settlement, claim, settle
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import JobView, get_job
from soundmill.storage.rows import Batch, Job
from soundmill.storage.submission import Accepted, NewJob, accept, request_digest

WORKER, CARD, LEASE_S = "cpu-0@here/1", "cpu:0", 30.0


def new_job(**changes: Any) -> NewJob:
    """A job that passed the catalogue."""
    values: dict[str, Any] = {
        "id": str(ULID()),
        "tenant": "default",
        "batch": "",
        "custom_id": None,
        "kind": "tts",
        "model": "espeak-ng",
        "args": {"text": "one two three"},
        "args_version": 1,
        "priority": 4,
        "max_failures": 3,
    }
    values |= changes
    values.setdefault("digest", request_digest(values["kind"], values["model"], values["args"]))
    return NewJob(**values)


def accepted(database: Database, *jobs: NewJob) -> list[Accepted]:
    """Accept the jobs in a transaction of their own."""
    with database.write() as connection:
        return accept(connection, database, jobs)


def submit(database: Database, **changes: Any) -> str:
    """Accept one job; its id."""
    return accepted(database, new_job(**changes))[0].id


def submit_many(database: Database, count: int, **changes: Any) -> list[str]:
    """Accept many jobs; their ids."""
    return [answer.id for answer in accepted(database, *(new_job(**changes) for _ in range(count)))]


def take(database: Database, *ids: str, worker: str = WORKER, lease_s: float = LEASE_S) -> dict[str, Claimed]:
    """Claim jobs."""
    with database.write() as connection:
        return claim(connection, database, ids, worker=worker, card=CARD, lease_s=lease_s)


def running(database: Database, worker: str = WORKER, **changes: Any) -> Claimed:
    """A job that a worker performs."""
    id_ = submit(database, **changes)
    return take(database, id_, worker=worker)[id_]


OUTCOMES = {
    State.COMPLETED: "completed",
    State.RETRYABLE: "failed",
    State.DISCARDED: "discarded",
    State.CANCELLED: "cancelled",
    State.AVAILABLE: "handed_back",
}


def ending(claimed: Claimed, state: State = State.COMPLETED, **changes: Any) -> Settlement:
    """How an attempt ends."""
    values: dict[str, Any] = {"outcome": OUTCOMES[state]} | changes
    return Settlement(id=claimed.id, attempt=claimed.attempt, state=state, **values)


def end(database: Database, *settlements: Settlement) -> Settled:
    """Settle attempts in one group."""
    with database.write() as connection:
        return settle(connection, database, settlements)


def finish(database: Database, id_: str, state: State = State.COMPLETED, **changes: Any) -> Settled:
    """Claim a job and end it."""
    return end(database, ending(take(database, id_)[id_], state, **changes))


def see(database: Database, id_: str) -> JobView:
    """The job as it stands in the table."""
    with database.read() as connection:
        return get_job(connection, id_)


def states(database: Database, ids: Iterable[str]) -> list[State]:
    """The states of jobs, in the order of the ids."""
    return [see(database, id_).state for id_ in ids]


def field(database: Database, id_: str, name: str) -> Any:
    """One column of a job that its submitter does not see."""
    with database.read() as connection:
        return connection.execute(select(getattr(Job, name)).where(Job.id == id_)).scalar_one()


def change(database: Database, id_: str, **values: Any) -> None:
    """Write columns of a job, as time or somebody else's mistake would."""
    with database.write() as connection:
        connection.execute(update(Job).where(Job.id == id_).values(**values))


def counted(connection: Connection) -> dict[tuple[str, str], int]:
    """The counters of the batches, without zeros."""
    rows = connection.execute(select(Batch.__table__)).mappings()
    return {(row["id"], state.value): row[state.value] for row in rows for state in State if row[state.value]}


def recounted(connection: Connection) -> dict[tuple[str, str], int]:
    """What the counters should say."""
    query = select(Job.batch_id, Job.state, func.count()).group_by(Job.batch_id, Job.state)
    return {(batch, state): count for batch, state, count in connection.execute(query)}


def assert_counters_are_true(database: Database) -> None:
    with database.read() as connection:
        assert counted(connection) == recounted(connection)


class Background:
    """A function in a thread of its own; `result` waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        pool = ThreadPoolExecutor(1)
        self._future = pool.submit(work)
        pool.shutdown(wait=False)

    @property
    def waits(self) -> bool:
        """Whether it has not come back within a moment."""
        return bool(wait([self._future], timeout=0.2).not_done)

    def result(self) -> Any:
        """What the function returned, or raised."""
        return self._future.result(timeout=20)
