"""One attempt at a job, as the table sees it: claim, keep the lease, settle or hand back.

Every change is conditional on the state and the attempt number, so an attempt that was given up
for dead can neither overwrite the next one nor add to it. Each function works for a whole group of
jobs in the caller's transaction: the worker commits many claims and settles together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, case, exists, insert, select, update

from .database import SERVER_TIME, Database
from .endings import Ending, write_endings
from .families import cancel_children, release_children
from .lifecycle import CANCELLED, CANCELLED_RUNNING, FAILED, State
from .membership import among_bound
from .rows import Artifact, Job, Queue
from .submission import record_blobs
from .tally import Tally

if TYPE_CHECKING:
    from sqlalchemy import Select, Update


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
        stopped: Those of them that were cancelled instead, since somebody had asked for it.
        freed: Children that may run now.
        cancelled: Children that were cancelled because their parent failed.
    """

    applied: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()
    freed: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = field(default=())


# What every job passes through is built once: putting a statement together costs more than running it.
_PAUSED = exists().where(Queue.model == Job.model, Queue.paused.is_(True))
_WAITS = Job.state == State.AVAILABLE
_LOCKED = (
    Job.id, Job.state, Job.attempt, Job.tenant, Job.batch_id, Job.kind, Job.model, Job.args_version, Job.priority,
    Job.failures, Job.max_failures, Job.suspect, Job.available_at, Job.started_at, Job.deadline_at,
    Job.cancel_requested_at, Job.worker, Job.card,
    case((_WAITS, Job.args)).label("args"),  # they may be long, and whoever settles has them
    case((_WAITS, _PAUSED), else_=False).label("paused"),
)  # fmt: skip


@cache
def _lock_statement(dialect: str) -> Select[Any]:
    statement = (
        select(*_LOCKED)
        .where(among_bound(dialect, Job.id, "ids"), Job.state.in_((State.AVAILABLE, State.EXECUTING)))
        .order_by(Job.id)
        .with_for_update(of=Job)
    )
    # The host's clock needs no question.
    return statement if dialect == "sqlite" else statement.add_columns(SERVER_TIME.label("now"))


@cache
def _claim_statement(dialect: str) -> Update:
    return (
        update(Job)
        .where(among_bound(dialect, Job.id, "ids"), _WAITS)
        .values(
            state=State.EXECUTING.value,
            attempt=Job.attempt + 1,
            worker=bindparam("claimer"),
            card=bindparam("place"),
            alone=False,
            started_at=bindparam("now"),
            lease_until=bindparam("until"),
            progress=None,
            metrics=None,
            cancel_requested_at=None,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Jobs that a worker wants.

    Attributes:
        ids: The jobs that messages named.
        worker: The incarnation that takes them.
        card: Where it will run them.
        lease_s: How long it holds them without a heartbeat.
    """

    ids: Collection[str]
    worker: str
    card: str
    lease_s: float


def claim(
    connection: Connection,
    database: Database,
    ids: Collection[str],
    *,
    worker: str,
    card: str,
    lease_s: float,
) -> dict[str, Claimed]:
    """Take jobs; `claim_and_settle` without anything to settle."""
    claims = Claims(ids=ids, worker=worker, card=card, lease_s=lease_s)
    return claim_and_settle(connection, database, claims, ())[0]


def settle(connection: Connection, database: Database, settlements: Sequence[Settlement]) -> Settled:
    """Write how attempts ended; `claim_and_settle` without anything to claim."""
    return claim_and_settle(connection, database, None, settlements)[1]


def claim_and_settle(
    connection: Connection, database: Database, claims: Claims | None, settlements: Sequence[Settlement]
) -> tuple[dict[str, Claimed], Settled]:
    """Take the jobs that are available, not past their deadline and not paused, and end other attempts.

    Attempts that lost their job are left out. A job that was asked to stop is cancelled instead of
    completed or put back: whoever cancelled it was told so.

    The rows are locked first and in the order of their ids, the batches last: so no two transactions
    can wait for each other in a circle.

    Args:
        connection: An open write transaction.
        database: Its database.
        claims: What to take.
        settlements: At most one for each job.

    Returns:
        The jobs taken, by id; one that is missing is a duplicate message, or waits for its queue. And
        what the settlements did.
    """
    wanted = set() if claims is None else set(claims.ids)
    rows, now = _lock(connection, database, wanted | {s.id for s in settlements})
    tally = Tally()
    settled = _settle(connection, database, settlements, rows, now, tally)
    claimed: dict[str, Claimed] = {}
    if claims is not None:
        waiting = [row for id_, row in rows.items() if id_ in wanted and row.state == State.AVAILABLE]
        claimed = _claim(connection, database.dialect, claims, waiting, now, tally)
    tally.write(connection)
    return claimed, settled


def _lock(connection: Connection, database: Database, ids: Collection[str]) -> tuple[dict[str, Any], float]:
    """Hold those of the jobs that wait or run; return them and what time it is."""
    statement = _lock_statement(database.dialect)
    rows = {row.id: row for row in connection.execute(statement, {"ids": sorted(ids)})}
    if database.dialect == "sqlite":
        return rows, database.time(connection)
    return rows, next((row.now for row in rows.values()), 0.0)


def _claim(
    connection: Connection, dialect: str, claims: Claims, waiting: Sequence[Any], now: float, tally: Tally
) -> dict[str, Claimed]:
    paused = [row.id for row in waiting if row.paused]
    if paused:
        # The message is used up; the dispatcher sends another when the queue goes on.
        connection.execute(update(Job).where(Job.id.in_(paused), _WAITS).values(published_at=None))
    lease_until = now + claims.lease_s
    taken = {
        row.id: _claimed(row, now, lease_until)
        for row in waiting
        if not row.paused and (row.deadline_at is None or row.deadline_at > now)
    }
    if taken:
        connection.execute(
            _claim_statement(dialect),
            {"ids": list(taken), "now": now, "until": lease_until, "claimer": claims.worker,
             "place": claims.card},
        )  # fmt: skip
    for job in taken.values():
        tally.move(job.batch_id, State.AVAILABLE, State.EXECUTING)
    return taken


def _claimed(row: Any, now: float, lease_until: float) -> Claimed:
    return Claimed(
        id=row.id,
        attempt=row.attempt + 1,
        tenant=row.tenant,
        batch_id=row.batch_id,
        kind=row.kind,
        model=row.model,
        args=row.args,
        args_version=row.args_version,
        priority=row.priority,
        failures=row.failures,
        max_failures=row.max_failures,
        suspect=row.suspect,
        available_at=row.available_at,
        started_at=now,
        deadline_at=row.deadline_at,
        lease_until=lease_until,
    )


def mark_alone(connection: Connection, job_id: str, attempt: int) -> None:
    """Note that the attempt has the card to itself, before it begins: a crash is now its own."""
    connection.execute(
        update(Job)
        .where(Job.id == job_id, Job.attempt == attempt, Job.state == State.EXECUTING)
        .values(alone=True)
    )


def _settle(
    connection: Connection,
    database: Database,
    settlements: Sequence[Settlement],
    held: Mapping[str, Any],
    now: float,
    tally: Tally,
) -> Settled:
    holding = [s for s in settlements if _holds(held.get(s.id), s.attempt)]
    if not holding:
        return Settled()
    applied = [_obeying(s, held[s.id]) for s in holding]
    _write_artifacts(connection, database, applied, now)
    write_endings(connection, [_ending(s, held[s.id], now) for s in applied])
    for s in applied:
        tally.move(held[s.id].batch_id, State.EXECUTING, s.state)
    freed = _release(connection, database, applied, tally)
    failed = [s.id for s in applied if s.state in FAILED]
    cancelled = cancel_children(connection, database, failed, tally)
    return Settled(
        applied=frozenset(s.id for s in applied),
        stopped=frozenset(s.id for s, asked in zip(applied, holding, strict=True) if s is not asked),
        freed=tuple(freed),
        cancelled=tuple(cancelled),
    )


def _holds(row: Any, attempt: int) -> bool:
    return row is not None and row.state == State.EXECUTING and row.attempt == attempt


def _obeying(s: Settlement, held: Any) -> Settlement:
    # The worker may not have heard of the cancel. Put back, nobody would look for it again; and completed,
    # it would be what its submitter was told it never becomes.
    if held.cancel_requested_at is None or s.state in FAILED:
        return s
    ended = replace(s, state=State.CANCELLED, error_code=CANCELLED, error=CANCELLED_RUNNING)
    if s.state != State.COMPLETED:
        return ended
    return replace(ended, outcome=CANCELLED, result=None, metrics=None, artifacts=())


def _release(
    connection: Connection, database: Database, applied: Sequence[Settlement], tally: Tally
) -> list[str]:
    completed = [s.id for s in applied if s.state == State.COMPLETED]
    return release_children(connection, database, completed, tally) if completed else []


def _write_artifacts(
    connection: Connection, database: Database, applied: Sequence[Settlement], now: float
) -> None:
    made = [(s, file) for s in applied for file in s.artifacts]
    if not made:
        return
    record_blobs(connection, database, {(file.sha256, file.size) for _, file in made}, now)
    connection.execute(
        insert(Artifact),
        [
            {"job_id": s.id, "name": file.name, "role": file.role, "sha256": file.sha256,
             "size": file.size, "media_type": file.media_type, "attempt": s.attempt, "created_at": now}
            for s, file in made
        ],
    )  # fmt: skip


def _ending(s: Settlement, held: Any, now: float) -> Ending:
    return Ending(
        job_id=s.id,
        attempt=s.attempt,
        state=s.state.value,
        charged=int(s.charge),
        result=None if s.result is None else dict(s.result),
        metrics=None if s.metrics is None else dict(s.metrics),
        error_code=s.error_code,
        error=s.error,
        available_at=now + s.backoff_s if s.state == State.RETRYABLE else held.available_at,
        finished_at=now if s.state.final else None,
        outcome=s.outcome,
        worker=held.worker,
        card=held.card,
        started_at=held.started_at,
        ended_at=now,
    )
