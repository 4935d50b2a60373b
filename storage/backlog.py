"""What waits, of which model and since when, for people who watch: cheap with a million rows behind it.

Nothing here reads more than the window, the batches, and a row for each batch that has something to do: a
question that is asked four times a minute must not walk the backlog. So jobs are not counted but taken from
the counters of their batches, and the age is that of the first job in line of each batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, literal_column, select

from .database import Database, chunks
from .leader import ROLE
from .lifecycle import State
from .rows import Batch, Job, Leader
from .window import AT_TABLE, PUBLISHED, batches_at, tables

COUNTED_MOST = 5_000
"""The most rows that are counted one by one, of a model in a batch that mixes models."""

NEWEST = 1_000
"""How many of the newest discarded jobs are asked for their reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The jobs of a model that may run and do not yet.

    Attributes:
        jobs: How many there are. Of a batch whose jobs are of several models, two of which have more than
            `COUNTED_MOST` each, no more than these are counted.
        since: When the one that waits longest became available, of those that are first in their batch.
    """

    jobs: int
    since: float | None


@dataclass(frozen=True, slots=True)
class _Line:
    """The unpublished jobs of a batch, of one model and priority."""

    model: str
    priority: int
    batch: str
    since: float | None


_IN_LINE = (*AT_TABLE, Job.batch_id == bindparam("batch"))
_FIRST_IN_LINE = select(Job.available_at).where(*_IN_LINE).order_by(Job.seq).limit(1)
_SOME_IN_LINE = select(literal_column("1").label("one")).where(*_IN_LINE).limit(COUNTED_MOST).subquery()
_COUNT_IN_LINE = select(func.count()).select_from(_SOME_IN_LINE)


def waiting(connection: Connection) -> dict[str, Waiting]:
    """What waits, by model; a model of which nothing waits is missing.

    Args:
        connection: A read transaction.
    """
    lines = list(_lines(connection))
    window = _window(connection)
    counts: defaultdict[str, int] = defaultdict(int)
    since: dict[str, float] = {}
    published: defaultdict[str, int] = defaultdict(int)
    for (model, batch), (jobs, oldest) in window.items():
        counts[model] += jobs
        published[batch] += jobs
        since[model] = min(since.get(model, oldest), oldest)
    for line in lines:
        if line.since is not None:
            since[line.model] = min(since.get(line.model, line.since), line.since)
    available = _available(connection, {line.batch for line in lines})
    for batch, of_batch in _by_batch(lines).items():
        rest = max(available.get(batch, 0) - published[batch], 0)
        for model, jobs in _shares(connection, of_batch, rest).items():
            counts[model] += jobs
    return {model: Waiting(jobs=jobs, since=since.get(model)) for model, jobs in counts.items()}


def _lines(connection: Connection) -> Iterator[_Line]:
    for model, priority in tables(connection):
        for batch in batches_at(connection, model, priority):
            values = {"model": model, "priority": priority, "batch": batch}
            since = connection.execute(_FIRST_IN_LINE, values).scalar()
            yield _Line(model=model, priority=priority, batch=batch, since=since)


def _window(connection: Connection) -> dict[tuple[str, str], tuple[int, float]]:
    """The jobs whose message is out, by model and batch, and since when the oldest of them waits."""
    rows = connection.execute(
        select(
            Job.model, Job.batch_id, func.count().label("jobs"), func.min(Job.available_at).label("oldest")
        )
        .where(*PUBLISHED)
        .group_by(Job.model, Job.batch_id)
    )
    return {(row.model, row.batch_id): (row.jobs, row.oldest) for row in rows}


def _available(connection: Connection, batches: Collection[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in chunks(sorted(batches)):
        rows = connection.execute(select(Batch.id, Batch.available).where(Batch.id.in_(some)))
        found |= {row.id: row.available for row in rows}
    return found


def _by_batch(lines: Collection[_Line]) -> Mapping[str, list[_Line]]:
    batches: defaultdict[str, list[_Line]] = defaultdict(list)
    for line in lines:
        batches[line.batch].append(line)
    return batches


def _shares(connection: Connection, lines: Collection[_Line], rest: int) -> dict[str, int]:
    """How many of the `rest` unpublished jobs of a batch are of which model."""
    models = {line.model for line in lines}
    if len(models) == 1:
        return dict.fromkeys(models, rest)
    counts = dict.fromkeys(models, 0)
    for line in lines:
        values = {"model": line.model, "priority": line.priority, "batch": line.batch}
        counts[line.model] += connection.execute(_COUNT_IN_LINE, values).scalar_one()
    many = [model for model, count in counts.items() if count >= COUNTED_MOST]
    if len(many) == 1:
        counts[many[0]] = max(rest - sum(counts.values()) + counts[many[0]], counts[many[0]])
    return counts


def jobs_by_state(connection: Connection) -> dict[State, int]:
    """All jobs of all tenants, from the counters of the batches."""
    sums = [func.coalesce(func.sum(getattr(Batch, state.value)), 0) for state in State]
    return dict(zip(State, map(int, connection.execute(select(*sums)).one()), strict=True))


def newest_discarded(connection: Connection) -> dict[tuple[str, str], int]:
    """How many of the `NEWEST` discarded jobs are of which model and error code."""
    rows = connection.execute(
        select(Job.model, Job.error_code)
        .where(Job.state == literal_column(f"'{State.DISCARDED.value}'"))
        .order_by(Job.seq.desc())
        .limit(NEWEST)
    )
    found: defaultdict[tuple[str, str], int] = defaultdict(int)
    for model, code in rows:
        found[model, code or "none"] += 1
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """The leases of running jobs.

    Attributes:
        held: How many jobs run, or are thought to.
        expired: How many of their leases ran out without anybody having rescued the job.
        oldest_s: How long ago the first of these ran out.
    """

    held: int
    expired: int
    oldest_s: float


def leases(connection: Connection, database: Database) -> Leases:
    """How the leases stand."""
    now = database.time(connection)
    running = Job.state == literal_column(f"'{State.EXECUTING.value}'")
    held, oldest = connection.execute(
        select(func.count(Job.lease_until), func.min(Job.lease_until)).where(running)
    ).one()
    expired = connection.execute(
        select(func.count(Job.lease_until)).where(running, Job.lease_until < now)
    ).scalar_one()
    oldest_s = max(now - oldest, 0.0) if expired and oldest is not None else 0.0
    return Leases(held=held, expired=expired, oldest_s=oldest_s)


def leadership_left_s(connection: Connection, database: Database) -> float | None:
    """How long the dispatcher's lease still lasts, negative since it ran out; `None` if nobody ever led."""
    until = connection.execute(select(Leader.lease_until).where(Leader.role == ROLE)).scalar()
    return None if until is None else until - database.time(connection)
