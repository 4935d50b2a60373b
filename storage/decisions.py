"""What people decide about jobs: cancel, retry, pause a queue, drain a card."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, or_, select, update

from .database import Database
from .errors import NotFound, StateConflict
from .families import (
    PARENT_FAILED,
    cancel_children,
    make_due_available,
    recount_parents,
    revive_children,
)
from .lifecycle import CANCELLED, FAILED, WAITING, State
from .rows import Artifact, Job, JobParent, Queue, Worker
from .submission import upsert
from .tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """What a cancel did.

    Attributes:
        cancelled: The jobs that are cancelled now, children included.
        stopping: Running jobs, as (id, attempt), whose worker has to be told.
    """

    cancelled: tuple[str, ...]
    stopping: tuple[tuple[str, int], ...]


def cancel(connection: Connection, database: Database, ids: Collection[str]) -> Cancellation:
    """Cancel jobs that wait, and ask the workers of those that run to stop.

    A job that is final already stays as it is, but for one that was cancelled because of a parent: it does
    not come back with that one any more.

    Raises:
        NotFound: There is no job of one of the ids; nothing was changed.
    """
    _require(connection, ids)
    tally = Tally()
    # Locked first: a row that a worker claims meanwhile is found in its new state below.
    locked = select(Job.id, Job.state).where(Job.id.in_(ids)).order_by(Job.id).with_for_update()
    before = {row.id: row.state for row in connection.execute(locked)}
    by_hand = {
        "cancel_requested_at": database.now(),
        "error_code": CANCELLED,
        "error": "cancelled before it started",
    }
    connection.execute(
        update(Job)
        .where(Job.id.in_(ids), Job.state == State.CANCELLED, Job.error_code == PARENT_FAILED)
        .values(by_hand)
    )
    waiting = connection.execute(
        update(Job)
        .where(Job.id.in_(ids), Job.state.in_(WAITING))
        .values(state=State.CANCELLED.value, finished_at=database.now(), **by_hand)
        .returning(Job.id, Job.batch_id)
    ).all()
    for row in waiting:
        tally.move(row.batch_id, before[row.id], State.CANCELLED)
    running = connection.execute(
        update(Job)
        .where(Job.id.in_(ids), Job.state == State.EXECUTING)
        .values(cancel_requested_at=func.coalesce(Job.cancel_requested_at, database.now()))
        .returning(Job.id, Job.attempt)
    ).all()
    stopped = [row.id for row in waiting]
    stopped += cancel_children(connection, database, stopped, tally)
    tally.write(connection)
    return Cancellation(cancelled=tuple(stopped), stopping=tuple((row.id, row.attempt) for row in running))


def retry(connection: Connection, database: Database, ids: Collection[str]) -> list[str]:
    """Bring discarded and cancelled jobs back with a fresh budget; return the ids that may run now.

    The attempt number goes on: it is the fence. Children that were cancelled because of these jobs
    come back with them, and a job whose parents are not completed waits for them again.

    Raises:
        NotFound: There is no job of one of the ids.
        StateConflict: One of the jobs is neither discarded nor cancelled, was pruned, or waits for a job
            that is discarded or cancelled and was not named. Nothing must be committed.
    """
    _require(connection, ids)
    before = connection.execute(
        select(Job.id, Job.batch_id, Job.state, Job.pruned_at)
        .where(Job.id.in_(ids))
        .order_by(Job.id)
        .with_for_update()
    ).all()
    for row in before:
        if row.pruned_at is not None:
            raise StateConflict(
                f"job {row.id} was pruned, and its arguments with it; submit it again, with another key"
            )
        if row.state not in FAILED:
            raise StateConflict(
                f"job {row.id} is {row.state}; only discarded and cancelled jobs can be retried"
            )
    connection.execute(
        update(Job)
        .where(Job.id.in_(ids))
        .values(
            state=State.SCHEDULED.value,
            failures=0,
            crashes=0,
            kills=0,
            suspect=False,
            available_at=None,
            published_at=None,
            started_at=None,
            finished_at=None,
            deadline_at=None,  # it belonged to the first try; keeping it would discard the job at once
            cancel_requested_at=None,
            progress=None,
            error_code=None,
            error=None,
        )
    )
    connection.execute(delete(Artifact).where(Artifact.job_id.in_(ids), Artifact.role != "input"))
    tally = Tally()
    for row in before:
        tally.move(row.batch_id, row.state, State.SCHEDULED)
    _refuse_orphans(connection, ids)
    recount_parents(connection, ids)
    revived = revive_children(connection, ids, tally)
    freed = make_due_available(connection, database, [*ids, *revived], tally)
    tally.write(connection)
    return freed


def _refuse_orphans(connection: Connection, ids: Collection[str]) -> None:
    orphan = connection.execute(
        select(JobParent.child, JobParent.parent, Job.state)
        .join(Job, Job.id == JobParent.parent)
        .where(JobParent.child.in_(ids), Job.state.in_(FAILED))
        .order_by(JobParent.child)
        .limit(1)
    ).first()
    if orphan is not None:
        child, parent, state = orphan
        raise StateConflict(
            f"job {child} waits for job {parent}, which is {state}; retry that one, and both run"
        )


def _require(connection: Connection, ids: Collection[str]) -> None:
    known = set(connection.execute(select(Job.id).where(Job.id.in_(ids))).scalars())
    missing = [id_ for id_ in ids if id_ not in known]
    if missing:
        raise NotFound(f"there is no job {missing[0]}; `soundmill jobs list` shows those there are")


def set_paused(connection: Connection, database: Database, model: str, *, paused: bool) -> None:
    """Pause or resume a model's queue, for all workers and across restarts."""
    values = {"model": model, "paused": paused, "changed_at": database.now()}
    connection.execute(upsert(database, Queue, values, keys=("model",)))


def set_draining(connection: Connection, card: str, *, draining: bool) -> list[str]:
    """Let the workers of a card take nothing new, or work again; return their names.

    Args:
        connection: An open write transaction.
        card: `cpu:0`, on every host that has one, or a worker's whole name `cpu-0@host`.
        draining: Whether to stop taking jobs.

    Raises:
        NotFound: No worker ever reported that card.
    """
    names = connection.execute(
        update(Worker)
        .where(or_(Worker.card == card, Worker.name == card))
        .values(draining=draining)
        .returning(Worker.name)
    ).scalars()
    found = sorted(names)
    if not found:
        raise NotFound(
            f"no worker has reported the card {card!r}; `soundmill queue show` lists those that have"
        )
    return found
