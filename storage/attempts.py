"""One attempt at a job, as the table sees it: claim, keep the lease, settle or hand back.

Every change is conditional on the state and the attempt number, so an attempt that was given up
for dead can neither overwrite the next one nor add to it. Each function works for a whole group of
jobs in the caller's transaction: the worker commits many claims and settles together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, case, exists, insert, or_, select, update

from .database import Database
from .families import cancel_children, release_children
from .lifecycle import CANCELLED, CANCELLED_RUNNING, FAILED, State
from .rows import Artifact, Attempt, Job, Queue
from .submission import record_blobs
from .tally import Tally

if TYPE_CHECKING:
    from sqlalchemy import BindParameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A job that this worker may now perform, until `lease_until` unless it renews."""

    id: str
    attempt: int
    tenant: str
    batch_id: str
    kind: str
    model: str
    args: Mapping[str, Any]
    args_version: int
    priority: int
    failures: int
    max_failures: int
    suspect: bool
    available_at: float
    started_at: float
    deadline_at: float | None
    lease_until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file of an attempt, whose bytes are in the blob store."""

    name: str
    role: str
    sha256: str
    size: int
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How an attempt ended.

    Attributes:
        state: Where the job goes: `completed`, `retryable`, `cancelled`, `discarded`, or
            `available` for a hand-back.
        outcome: The word for the row of the attempt.
        charge: Whether the failure counts against the job's budget.
        backoff_s: For `retryable`: how long until it may run again.
    """

    id: str
    attempt: int
    state: State
    outcome: str
    result: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    artifacts: tuple[Made, ...] = ()
    error_code: str | None = None
    error: str | None = None
    charge: bool = False
    backoff_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a group of settlements did.

    Attributes:
        applied: The ids whose attempt still held the job.
        freed: Children that may run now.
        cancelled: Children that were cancelled because their parent failed.
    """

    applied: frozenset[str] = frozenset()
    freed: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a heartbeat learnt: the leases that still hold, and which of the jobs are to stop."""

    held: frozenset[tuple[str, int]]
    cancelled: frozenset[tuple[str, int]]


_CLAIMED_COLUMNS = (
    Job.id, Job.attempt, Job.tenant, Job.batch_id, Job.kind, Job.model, Job.args, Job.args_version,
    Job.priority, Job.failures, Job.max_failures, Job.suspect, Job.available_at, Job.started_at,
    Job.deadline_at, Job.lease_until,
)  # fmt: skip


# What every job passes through is built once: putting a statement together costs more than running it.
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_PAUSED = exists().where(Queue.model == Job.model, Queue.paused.is_(True))
_CLAIM = (
    update(Job)
    .where(
        Job.id.in_(_IDS),
        Job.state == State.AVAILABLE,
        ~_PAUSED,
        or_(Job.deadline_at.is_(None), Job.deadline_at > bindparam("now")),
    )
    .values(
        state=State.EXECUTING.value,
        attempt=Job.attempt + 1,
        worker=bindparam("claimer"),
        card=bindparam("place"),
        alone=False,
        started_at=bindparam("now"),
        lease_until=bindparam("until"),
        progress=None,
        cancel_requested_at=None,
    )
    .returning(*_CLAIMED_COLUMNS)
)
_LEAVE_TO_DISPATCHER = (
    update(Job).where(Job.id.in_(_IDS), Job.state == State.AVAILABLE, _PAUSED).values(published_at=None)
)


def claim(
    connection: Connection,
    database: Database,
    ids: Collection[str],
    *,
    worker: str,
    card: str,
    lease_s: float,
) -> dict[str, Claimed]:
    """Take those of the jobs that are available, not past their deadline and not paused.

    Args:
        connection: An open write transaction.
        database: Its database.
        ids: The jobs that messages named.
        worker: The incarnation that takes them.
        card: Where it will run them.
        lease_s: How long it holds them without a heartbeat.

    Returns:
        The jobs taken, by id. One that is missing is a duplicate message, or waits for its queue.
    """
    now = database.time(connection)
    wanted = sorted(ids)
    rows = connection.execute(
        _CLAIM, {"ids": wanted, "now": now, "until": now + lease_s, "claimer": worker, "place": card}
    ).all()
    claimed = {row.id: Claimed(**row._mapping) for row in rows}
    left = [id_ for id_ in wanted if id_ not in claimed]
    if left:
        # The message is used up; the dispatcher sends another when the queue goes on.
        connection.execute(_LEAVE_TO_DISPATCHER, {"ids": left})
    tally = Tally()
    for job in claimed.values():
        tally.move(job.batch_id, State.AVAILABLE, State.EXECUTING)
    tally.write(connection)
    return claimed


def keep(
    connection: Connection,
    database: Database,
    attempts: Mapping[tuple[str, int], float | None],
    *,
    worker: str,
    lease_s: float,
) -> Kept:
    """Renew the leases of a worker and learn which jobs are cancelled.

    Args:
        connection: An open write transaction.
        database: Its database.
        attempts: (job, attempt) and its progress so far.
        worker: The incarnation that holds them.
        lease_s: How long from now.
    """
    ids = sorted(job for job, _ in attempts)
    progress = {job: share for (job, _), share in attempts.items() if share is not None}
    values: dict[str, Any] = {"lease_until": database.now() + lease_s}
    if progress:
        values["progress"] = case(progress, value=Job.id, else_=Job.progress)
    rows = connection.execute(
        update(Job)
        .where(Job.id.in_(ids), Job.state == State.EXECUTING, Job.worker == worker)
        .values(values)
        .returning(Job.id, Job.attempt, Job.cancel_requested_at)
    ).all()
    held = frozenset((row.id, row.attempt) for row in rows) & attempts.keys()
    cancelled = {(row.id, row.attempt) for row in rows if row.cancel_requested_at is not None}
    return Kept(held=frozenset(held), cancelled=frozenset(cancelled & held))


def mark_alone(connection: Connection, job_id: str, attempt: int) -> None:
    """Note that the attempt has the card to itself, before it begins: a crash is now its own."""
    connection.execute(
        update(Job)
        .where(Job.id == job_id, Job.attempt == attempt, Job.state == State.EXECUTING)
        .values(alone=True)
    )


_INSERT_ATTEMPT, _INSERT_ARTIFACT = insert(Attempt), insert(Artifact)

_APPLY = (
    update(Job)
    .where(Job.id == bindparam("job"), Job.attempt == bindparam("fence"), Job.state == State.EXECUTING)
    .values(
        state=bindparam("to"),
        failures=Job.failures + bindparam("charged"),
        result=bindparam("made", type_=Job.__table__.c.result.type),
        metrics=bindparam("measured", type_=Job.__table__.c.metrics.type),
        error_code=bindparam("code"),
        error=bindparam("why"),
        available_at=bindparam("again"),
        finished_at=bindparam("ended"),
        progress=case((bindparam("to") == State.COMPLETED.value, 1.0), else_=Job.progress),
        # A job that ran to an end of its own is no suspect; one handed back keeps the mark.
        suspect=case((bindparam("to") == State.AVAILABLE.value, Job.suspect), else_=False),
        alone=False,
        lease_until=None,
        published_at=None,
    )
)


def settle(connection: Connection, database: Database, settlements: Sequence[Settlement]) -> Settled:
    """Write how attempts ended; those that lost their job are left out.

    A job that was asked to stop and would run again is cancelled instead.

    Args:
        connection: An open write transaction.
        database: Its database.
        settlements: At most one for each job.
    """
    held = _lock_held(connection, settlements)
    applied = [
        _obeying(s, held[s.id]) for s in settlements if s.id in held and s.attempt == held[s.id].attempt
    ]
    if not applied:
        return Settled()
    now = database.time(connection)
    _write_artifacts(connection, database, applied, now)
    connection.execute(_APPLY, [_values(s, held[s.id], now) for s in applied])
    connection.execute(
        _INSERT_ATTEMPT,
        [
            {"job_id": s.id, "attempt": s.attempt, "worker": held[s.id].worker, "card": held[s.id].card,
             "outcome": s.outcome, "error_code": s.error_code, "started_at": held[s.id].started_at,
             "finished_at": now}
            for s in applied
        ],
    )  # fmt: skip
    tally = Tally()
    for s in applied:
        tally.move(held[s.id].batch_id, State.EXECUTING, s.state)
    freed = _release(connection, database, applied, tally)
    failed = [s.id for s in applied if s.state in FAILED]
    cancelled = cancel_children(connection, database, failed, tally)
    tally.write(connection)
    return Settled(applied=frozenset(s.id for s in applied), freed=tuple(freed), cancelled=tuple(cancelled))


def _obeying(s: Settlement, held: Any) -> Settlement:
    # The worker may not have heard of the cancel; once available, nobody would look for it again.
    if held.cancel_requested_at is None or s.state not in (State.AVAILABLE, State.RETRYABLE):
        return s
    return replace(s, state=State.CANCELLED, error_code=CANCELLED, error=CANCELLED_RUNNING)


def _release(
    connection: Connection, database: Database, applied: Sequence[Settlement], tally: Tally
) -> list[str]:
    completed = [s.id for s in applied if s.state == State.COMPLETED]
    return release_children(connection, database, completed, tally) if completed else []


_HELD_COLUMNS = (
    Job.id, Job.attempt, Job.batch_id, Job.worker, Job.card, Job.started_at, Job.available_at,
    Job.cancel_requested_at,
)  # fmt: skip


_LOCK_HELD = (
    select(*_HELD_COLUMNS)
    .where(Job.id.in_(_IDS), Job.state == State.EXECUTING)
    .order_by(Job.id)
    .with_for_update()
)


def _lock_held(connection: Connection, settlements: Sequence[Settlement]) -> dict[str, Any]:
    fences = {(s.id, s.attempt) for s in settlements}
    rows = connection.execute(_LOCK_HELD, {"ids": sorted({id_ for id_, _ in fences})})
    return {row.id: row for row in rows if (row.id, row.attempt) in fences}


def _write_artifacts(
    connection: Connection, database: Database, applied: Sequence[Settlement], now: float
) -> None:
    made = [(s, file) for s in applied for file in s.artifacts]
    if not made:
        return
    record_blobs(connection, database, {(file.sha256, file.size) for _, file in made}, now)
    connection.execute(
        _INSERT_ARTIFACT,
        [
            {"job_id": s.id, "name": file.name, "role": file.role, "sha256": file.sha256,
             "size": file.size, "media_type": file.media_type, "attempt": s.attempt, "created_at": now}
            for s, file in made
        ],
    )  # fmt: skip


def _values(s: Settlement, held: Any, now: float) -> dict[str, Any]:
    return {
        "job": s.id,
        "fence": s.attempt,
        "to": s.state.value,
        "charged": int(s.charge),
        "made": None if s.result is None else dict(s.result),
        "measured": None if s.metrics is None else dict(s.metrics),
        "code": s.error_code,
        "why": s.error,
        "again": now + s.backoff_s if s.state == State.RETRYABLE else held.available_at,
        "ended": now if s.state.final else None,
    }
