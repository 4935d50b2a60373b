"""Rescue: what brings a job on when a process, a message or a moment was lost.

Run by the leader every few seconds. Each function is one short transaction's work, reads only
rows that need it (a partial index each), and may be run twice or by two leaders.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, case, func, insert, literal_column, select, text, update

from .database import Database
from .families import cancel_children, make_due_available
from .lifecycle import CANCELLED, CANCELLED_RUNNING, FAILED, State, backoff_s
from .priorities import priorities_of, step_of
from .rows import Attempt, Job, JobParent, Worker
from .tally import Tally
from .window import PUBLISHED, Wake

if TYPE_CHECKING:
    from sqlalchemy.sql.elements import ColumnElement

PAGE = 500

LONE_KILLS = 20
"""A job is given up when its worker was killed, or fell silent, so often while it ran alone: with the
backoff between them, that takes more than an hour of nothing but kills."""

CRASHED = "worker_crashed"
CRASHED_WORDS = (
    "the worker's process died each time it ran this job alone{cause}; "
    "check the input, then `soundmill jobs retry` it"
)
KILLED_WORDS = (
    f"the worker's process was killed {LONE_KILLS} times while it ran this job alone, by somebody or for want of "
    "memory; check the input, then `soundmill jobs retry` it"
)
DEADLINE = "deadline_exceeded"

_rng = random.Random()

_EXECUTING: ColumnElement[str] = literal_column(f"'{State.EXECUTING.value}'")


def rescue_expired(connection: Connection, database: Database) -> list[str]:
    """Return the jobs whose lease ran out to their queues. Nothing is charged.

    Nobody saw why the worker fell silent, so they are suspects: they run alone. One that was alone already
    may have taken the whole host along, supervisor included: that counts as a kill.
    """
    rows = _lock_executing(connection, Job.lease_until < database.now())
    guilty = [row for row in rows if _was_killed_once_too_often(row)]
    _discard_guilty(connection, database, guilty, crashed=False, error=KILLED_WORDS)
    _give_back(connection, database, [row for row in rows if row not in guilty], crashed=False, suspect=True)
    return [row.id for row in rows]


def rescue_worker(
    connection: Connection,
    database: Database,
    *,
    worker: str,
    crashed: bool,
    max_crashes: int,
    suspects: bool = False,
    cause: str = "",
) -> list[str]:
    """Return the jobs of a worker that is known to be dead.

    If it ended by itself, they are suspects from now on and run alone; a job that was alone already
    is charged a crash, and discarded after `max_crashes`. A kill from outside blames nobody. But a job
    that was alone waits before it runs again, ever longer: it may have killed the worker itself, again
    and again, and the others would never get done beside it. After `LONE_KILLS` it is discarded, since
    every job has to come to an end.

    Args:
        connection: An open write transaction.
        database: Its database.
        worker: The dead incarnation.
        crashed: Whether it ended by itself, in a way that a job can cause.
        max_crashes: How many crashes a job may cause.
        suspects: Whether what it held are suspects although it did not end by itself.
        cause: How it ended, for whoever submitted a job that is discarded now.

    Returns:
        The jobs that were held.
    """
    # It is not live any more: nobody should wait for it until its last heartbeat is old.
    connection.execute(update(Worker).where(Worker.incarnation == worker).values(heartbeat_at=0.0))
    rows = _lock_executing(connection, Job.worker == worker)
    guilty: list[Any] = []
    spared: list[Any] = []
    for row in rows:
        crashed_once_too_often = crashed and row.alone and row.crashes + 1 >= max_crashes
        last_time = crashed_once_too_often or (not crashed and _was_killed_once_too_often(row))
        (guilty if last_time and row.cancel_requested_at is None else spared).append(row)
    words = CRASHED_WORDS.format(cause=cause and f": {cause}") if crashed else KILLED_WORDS
    _discard_guilty(connection, database, guilty, crashed=crashed, error=words)
    alone = [row for row in spared if row.alone and not crashed]
    others = [row for row in spared if row not in alone]
    suspect = crashed or suspects
    for row in alone:
        wait_s = backoff_s(row.kills + 1, _rng)
        _give_back(connection, database, [row], crashed=False, suspect=suspect, wait_s=wait_s)
    _give_back(connection, database, others, crashed=crashed, suspect=suspect)
    return [row.id for row in rows]


def _was_killed_once_too_often(row: Any) -> bool:
    return bool(row.alone) and row.kills + 1 >= LONE_KILLS and row.cancel_requested_at is None


def _lock_executing(connection: Connection, condition: Any) -> Sequence[Any]:
    return connection.execute(
        select(Job.id, Job.attempt, Job.batch_id, Job.worker, Job.card, Job.started_at, Job.alone, Job.crashes,
               Job.kills, Job.cancel_requested_at)
        .where(Job.state == _EXECUTING, condition)
        .order_by(Job.lease_until)
        .limit(PAGE)
        .with_for_update(skip_locked=True)
    ).all()  # fmt: skip


def _give_back(
    connection: Connection,
    database: Database,
    rows: Sequence[Any],
    *,
    crashed: bool,
    suspect: bool,
    wait_s: float = 0.0,
) -> list[str]:
    if not rows:
        return []
    goes_to = State.RETRYABLE if wait_s else State.AVAILABLE
    ids = [row.id for row in rows]
    _record(connection, database, rows, "crashed" if crashed else "lost", CRASHED if crashed else None)
    asked_to_stop = Job.cancel_requested_at.is_not(None)
    connection.execute(
        update(Job)
        .where(Job.id.in_(ids))
        .values(
            state=case((asked_to_stop, State.CANCELLED.value), else_=goes_to.value),
            available_at=database.now() + wait_s if wait_s else Job.available_at,
            finished_at=case((asked_to_stop, database.now()), else_=None),
            error_code=case((asked_to_stop, CANCELLED), else_=None),
            error=case((asked_to_stop, CANCELLED_RUNNING), else_=None),
            suspect=True if suspect else Job.suspect,
            crashes=case((Job.alone.is_(True), Job.crashes + int(crashed)), else_=Job.crashes),
            kills=case((Job.alone.is_(True), Job.kills + int(not crashed)), else_=Job.kills),
            alone=False,
            lease_until=None,
            published_at=None,
        )
    )
    tally = Tally()
    stopped = [row.id for row in rows if row.cancel_requested_at is not None]
    for row in rows:
        new = State.CANCELLED if row.cancel_requested_at is not None else goes_to
        tally.move(row.batch_id, State.EXECUTING, new)
    cancel_children(connection, database, stopped, tally)
    tally.write(connection)
    return ids


def _discard_guilty(
    connection: Connection, database: Database, rows: Sequence[Any], *, crashed: bool, error: str
) -> None:
    if not rows:
        return
    _record(connection, database, rows, "crashed" if crashed else "lost", CRASHED)
    connection.execute(
        update(Job)
        .where(Job.id.in_([row.id for row in rows]))
        .values(
            state=State.DISCARDED.value,
            crashes=Job.crashes + int(crashed),
            kills=Job.kills + int(not crashed),
            alone=False,
            finished_at=database.now(),
            lease_until=None,
            error_code=CRASHED,
            error=error,
        )
    )
    tally = Tally()
    for row in rows:
        tally.move(row.batch_id, State.EXECUTING, State.DISCARDED)
    cancel_children(connection, database, [row.id for row in rows], tally)
    tally.write(connection)


def _record(
    connection: Connection, database: Database, rows: Sequence[Any], outcome: str, code: str | None
) -> None:
    now = database.time(connection)
    connection.execute(
        insert(Attempt),
        [
            {"job_id": row.id, "attempt": row.attempt, "worker": row.worker, "card": row.card,
             "outcome": outcome, "error_code": code, "started_at": row.started_at, "finished_at": now}
            for row in rows
        ],
    )  # fmt: skip


def wake_due(connection: Connection, database: Database) -> int:
    """Make the jobs available whose time has come: scheduled ones and those after their backoff."""
    due = connection.execute(
        select(Job.id, Job.batch_id, Job.state)
        .where(text("state IN ('scheduled', 'retryable') AND pending_parents = 0"))
        .where(Job.available_at <= database.now())
        .order_by(Job.available_at)
        .limit(PAGE)
        .with_for_update(skip_locked=True)
    ).all()
    if due:
        connection.execute(
            update(Job)
            .where(Job.id.in_([row.id for row in due]))
            .values(state=State.AVAILABLE.value, published_at=None)
        )
        tally = Tally()
        for row in due:
            tally.move(row.batch_id, row.state, State.AVAILABLE)
        tally.write(connection)
    return len(due)


def discard_late(connection: Connection, database: Database) -> int:
    """Discard the jobs that wait past their deadline; a running one sees to it by itself."""
    late = connection.execute(
        select(Job.id, Job.batch_id, Job.state)
        .where(Job.deadline_at.is_not(None), Job.finished_at.is_(None), Job.deadline_at < database.now())
        .where(Job.state != State.EXECUTING)
        .order_by(Job.deadline_at)
        .limit(PAGE)
        .with_for_update(skip_locked=True)
    ).all()
    if late:
        ids = [row.id for row in late]
        connection.execute(
            update(Job)
            .where(Job.id.in_(ids))
            .values(
                state=State.DISCARDED.value,
                finished_at=database.now(),
                error_code=DEADLINE,
                error="the deadline passed before a worker came to it; allow more time or add workers",
            )
        )
        tally = Tally()
        for row in late:
            tally.move(row.batch_id, row.state, State.DISCARDED)
        cancel_children(connection, database, ids, tally)
        tally.write(connection)
    return len(late)


def release_forgotten(connection: Connection, database: Database, after_seq: int = 0) -> tuple[int, int]:
    """Release children whose parents are all final although nobody counted them off.

    Nothing known leads to one; this is the sweep that makes sure. It walks a page a call.

    Returns:
        How many were moved, and the `seq` to go on after (0: the walk is at its end).
    """
    rows = connection.execute(
        select(Job.id, Job.seq)
        .where(Job.state == literal_column("'scheduled'"), Job.pending_parents > literal_column("0"))
        .where(Job.seq > after_seq)
        .order_by(Job.seq)
        .limit(PAGE)
        .with_for_update(skip_locked=True)
    ).all()
    if not rows:
        return 0, 0
    ids = [row.id for row in rows]
    done, failed = _finished_families(connection, ids)
    tally = Tally()
    if done:
        connection.execute(update(Job).where(Job.id.in_(done)).values(pending_parents=0))
    moved = make_due_available(connection, database, done, tally) if done else []
    cancelled = cancel_children(connection, database, failed, tally)
    tally.write(connection)
    return len(moved) + len(cancelled), rows[-1].seq if len(rows) == PAGE else 0


def _finished_families(connection: Connection, ids: Collection[str]) -> tuple[list[str], list[str]]:
    """Of these children: those with all parents completed; and the failed parents of the others."""
    parents = connection.execute(
        select(JobParent.child, JobParent.parent, Job.state)
        .join(Job, Job.id == JobParent.parent)
        .where(JobParent.child.in_(ids))
    ).all()
    unfinished = {row.child for row in parents if row.state != State.COMPLETED}
    failed = {row.parent for row in parents if row.state in FAILED}
    return [id_ for id_ in ids if id_ not in unfinished], sorted(failed)


def count_published(
    connection: Connection, database: Database, model: str, older_s: float
) -> Counter[tuple[str, int]]:
    """How many available jobs of each lane had their message sent more than `older_s` ago."""
    rows = connection.execute(
        select(Job.priority, func.count())
        .where(*PUBLISHED, Job.model == model, Job.published_at < database.now() - older_s)
        .group_by(Job.priority)
    )
    counts: Counter[tuple[str, int]] = Counter()
    for priority, count in rows:
        counts[model, step_of(priority)] += count
    return counts


def oldest_published(
    connection: Connection, database: Database, lane: tuple[str, int], *, older_s: float, count: int
) -> list[Wake]:
    """The jobs of a lane whose message was sent longest ago, more than `older_s` before now."""
    if count <= 0:
        return []
    model, step = lane
    rows = connection.execute(
        select(Job.id, Job.kind, Job.model, Job.priority, Job.attempt)
        .where(*PUBLISHED, Job.model == model, Job.published_at < database.now() - older_s)
        .where(Job.priority.in_(priorities_of(step)))
        .order_by(Job.published_at)
        .limit(count)
    )
    return [Wake(**row._mapping) for row in rows]


def published_models(connection: Connection) -> list[str]:
    """The models that have jobs with a message out; one seek along the index for each."""
    models: list[str] = []
    query = select(Job.model).where(*PUBLISHED).order_by(Job.model).limit(1)
    model = connection.execute(query).scalar()
    while model is not None:
        models.append(model)
        model = connection.execute(query.where(Job.model > model)).scalar()
    return models
