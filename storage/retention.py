"""What becomes of jobs that nobody needs any more: after a while their rows go, and with them their files.

Only final jobs go, and none that something refers to: a job stays as long as a row says that it reads what the
job made (that child goes first), and as long as its batch is held by a reader, such as an export. With the row go
its attempts, its files and its part of the batch's counters; a batch that has none left goes, too.

A job with an idempotency key leaves that behind for a week, with its id, state and place: the same submit within
that time is still the same job, and does not run again.

Nothing here deletes bytes. Pruning makes the blobs of a job young, so that the collector leaves them alone for its
grace: whoever read the row a moment ago can still open its files, and a blob that another job has as well stays.

The jobs are walked in the order of acceptance, in short transactions. No index is kept for it: those accepted
after the time in question cannot have ended before it, so the walk ends at the first of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, or_, select, update

from .database import Database
from .lifecycle import FINAL, State
from .membership import among
from .rows import Artifact, Attempt, Batch, Blob, Job, JobParent, Worker
from .tally import Tally

DAY_S = 24 * 3600.0
KEYS_OUTLIVE_S = 7 * DAY_S
"""How long an idempotency key stays after its job was pruned."""

HOLD_S = 3600.0
"""How long a reader of a batch holds it, without another word."""

WORKERS_OUTLIVE_S = 30 * DAY_S
"""How long a worker is remembered after its last word, unless it was told to drain."""

LOOKED_AT, PAGE = 2000, 200
"""How many jobs are looked at in one transaction, and how many are removed in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long final jobs are kept after their end.

    Attributes:
        kept_s: Seconds by final state; those of a state that is missing are kept for ever.
        tenant: Whose jobs; `None` for all.
    """

    kept_s: Mapping[str, float]
    tenant: str | None = None

    def over(self, now: float) -> Any:
        """The condition for a job whose time is over."""
        ended = [
            and_(Job.state == state, Job.finished_at < now - kept_s) for state, kept_s in self.kept_s.items()
        ]
        whole = and_(or_(*ended), Job.pruned_at.is_(None))
        mine = [] if self.tenant is None else [Job.tenant == self.tenant]
        return and_(or_(whole, Job.pruned_at < now - KEYS_OUTLIVE_S), *mine)

    def horizon(self, now: float) -> float:
        """No job that was accepted after this moment can be over."""
        return now - min(self.kept_s.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What became of some jobs.

    Attributes:
        jobs: How many went, those of which a key stays among them.
        files: How many files they had.
        bytes: How many bytes those have at most: other jobs may have the same.
        spared: How many were over and stay, since something refers to them or holds them.
        batches: Those that have fewer jobs now.
    """

    jobs: int = 0
    files: int = 0
    bytes: int = 0
    spared: int = 0
    batches: frozenset[str] = frozenset()


def walk(database: Database, policy: Policy, *, dry_run: bool = False) -> Iterator[Pruned]:
    """Prune from the first job to the last, a few in each transaction.

    It yields after each of them, and from time to time where nothing is to be done, so that the caller can
    rest in between, or stop. A job whose children go in this walk goes in the next one.

    Args:
        database: The job table.
        policy: What is kept.
        dry_run: Whether to change nothing, and only tell what would go.

    Raises:
        StorageUnavailable: The table did not answer. What is left is found by a later walk.
    """
    after: int | None = 0 if policy.kept_s else None
    while after is not None:
        with database.read() as connection:
            ids, after = over(connection, database, policy, after)
        for start in range(0, max(len(ids), 1), PAGE):
            yield _pruned(database, policy, ids[start : start + PAGE], dry_run=dry_run)


def _pruned(database: Database, policy: Policy, ids: Sequence[str], *, dry_run: bool) -> Pruned:
    if not ids:
        return Pruned()
    if dry_run:
        with database.read() as connection:
            return prune(connection, database, policy, ids, dry_run=True)
    done = database.retrying(lambda connection: prune(connection, database, policy, ids))
    if done.batches:
        database.retrying(lambda connection: forget_empty_batches(connection, done.batches))
    return done


def over(
    connection: Connection, database: Database, policy: Policy, after_seq: int
) -> tuple[list[str], int | None]:
    """Look at some jobs in the order of acceptance.

    Returns:
        Those whose time is over, and where to go on; `None` at the end.
    """
    now = database.time(connection)
    page = connection.execute(
        select(Job.seq, Job.id, Job.submitted_at, policy.over(now).label("over"))
        .where(Job.seq > after_seq)
        .order_by(Job.seq)
        .limit(LOOKED_AT)
    ).all()
    last = len(page) < LOOKED_AT or page[-1].submitted_at > policy.horizon(now)
    return [row.id for row in page if row.over], None if last else page[-1].seq


def prune(
    connection: Connection, database: Database, policy: Policy, ids: Sequence[str], *, dry_run: bool = False
) -> Pruned:
    """Remove those of the jobs whose time is over and to which nothing refers.

    Args:
        connection: An open write transaction; one that reads will do for a dry run.
        database: Its database.
        policy: What is kept.
        ids: The jobs in question.
        dry_run: Whether to change nothing, and only tell what would go.
    """
    now = database.time(connection)
    going = _going(connection, ids, policy.over(now), now, lock=not dry_run)
    files, size = _files_of(connection, [row.id for row in going])
    return Pruned(
        jobs=sum(row.pruned_at is None for row in going),
        files=files,
        bytes=size,
        spared=len(ids) - len(going),
        batches=frozenset() if dry_run else _remove(connection, going, now),
    )


def _going(connection: Connection, ids: Sequence[str], over: Any, now: float, *, lock: bool) -> Sequence[Any]:
    """Those that may go. Of a job that somebody has locked, a child is being submitted, or it is retried."""
    columns = (Job.id, Job.batch_id, Job.state, Job.idempotency_key, Job.pruned_at)
    # The condition again, for what has changed since the page was read.
    found = select(*columns).where(among(connection, Job.id, ids), over, Job.state.in_(sorted(FINAL)))
    if lock:
        found = found.order_by(Job.id).with_for_update(skip_locked=True)
    rows = connection.execute(found).all()
    # In statements of their own: they see children and readers that came while a lock was waited for.
    children = select(JobParent.parent).where(among(connection, JobParent.parent, [row.id for row in rows]))
    needed = set(connection.execute(children).scalars())
    batches = {row.batch_id for row in rows}
    reading = select(Batch.id).where(among(connection, Batch.id, batches), Batch.held_until > now)
    held = set(connection.execute(reading).scalars())
    return [row for row in rows if row.id not in needed and row.batch_id not in held]


def _files_of(connection: Connection, ids: Sequence[str]) -> tuple[int, int]:
    sizes = select(func.count(), func.coalesce(func.sum(Artifact.size), 0)).where(Artifact.job_id.in_(ids))
    count, size = connection.execute(sizes).one()
    return int(count), int(size)


def _remove(connection: Connection, rows: Sequence[Any], now: float) -> frozenset[str]:
    keyed = [row.id for row in rows if row.idempotency_key is not None and row.pruned_at is None]
    kept = set(keyed)
    gone = [row for row in rows if row.id not in kept]
    ids = [row.id for row in rows]
    _make_young(connection, ids, now)
    for table, column in (
        (Artifact, Artifact.job_id),
        (Attempt, Attempt.job_id),
        (JobParent, JobParent.child),
    ):
        connection.execute(delete(table).where(column.in_(ids)))
    if keyed:
        connection.execute(
            update(Job)
            .where(Job.id.in_(keyed))
            .values(args={}, result=None, metrics=None, error=None, pruned_at=now)
        )
    if gone:
        connection.execute(delete(Job).where(Job.id.in_([row.id for row in gone])))
    tally = Tally()
    for row in gone:
        tally.add(row.batch_id, row.state, -1)
    tally.write(connection)
    return frozenset(row.batch_id for row in gone)


def _make_young(connection: Connection, ids: Sequence[str], now: float) -> None:
    """Start the collector's grace for the files of jobs."""
    hashes = select(Artifact.sha256).where(Artifact.job_id.in_(ids))
    # In the order in which writers lock them.
    locked = select(Blob.sha256).where(Blob.sha256.in_(hashes)).order_by(Blob.sha256).with_for_update()
    found = list(connection.execute(locked).scalars())
    if found:
        connection.execute(update(Blob).where(Blob.sha256.in_(found)).values(touched_at=now))


def forget_empty_batches(connection: Connection, batches: Collection[str]) -> int:
    """Remove those of the batches that have no job any more; return how many.

    To be called in a transaction of its own: who adds jobs holds the batch before its jobs.
    """
    empty = [getattr(Batch, state.value) == 0 for state in State]
    locked = connection.execute(
        select(Batch.id)
        .where(Batch.id.in_(sorted(batches)), *empty)
        .order_by(Batch.id)
        .with_for_update(skip_locked=True)
    ).scalars()
    # In a statement of its own, and by the jobs: whoever was adding some has committed them by now.
    left = exists().where(Job.batch_id == Batch.id)
    return connection.execute(delete(Batch).where(Batch.id.in_(locked.all()), ~left)).rowcount


def forget_workers(connection: Connection, database: Database) -> int:
    """Remove workers that were not heard of for long; hosts may have a new name at each start."""
    then = database.now() - WORKERS_OUTLIVE_S
    silent = (Worker.heartbeat_at < then, Worker.started_at < then, Worker.draining.is_(False))
    return connection.execute(delete(Worker).where(*silent)).rowcount


def hold_batch(connection: Connection, database: Database, batch_id: str) -> None:
    """Keep every job of a batch for another `HOLD_S`."""
    until = database.time(connection) + HOLD_S
    later = or_(Batch.held_until.is_(None), Batch.held_until < until)
    connection.execute(update(Batch).where(Batch.id == batch_id, later).values(held_until=until))
