"""Reading the job table: one job, pages of jobs, counts, workers. Short read transactions only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, literal_column, or_, select, tuple_

from .database import Database
from .errors import NotFound
from .lifecycle import State
from .rows import Artifact, Attempt, Batch, Job, JobParent, Queue, Worker

LIVE_S = 35.0
"""A worker that was heard of this recently counts as live: three heartbeats and a little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as its submitter sees it. Times are seconds since 1970."""

    id: str
    seq: int
    tenant: str
    batch_id: str
    custom_id: str | None
    kind: str
    model: str
    args: Mapping[str, Any]
    state: State
    priority: int
    attempt: int
    failures: int
    crashes: int
    max_failures: int
    pending_parents: int
    submitted_at: float
    scheduled_at: float | None
    available_at: float | None
    started_at: float | None
    finished_at: float | None
    deadline_at: float | None
    cancel_requested_at: float | None
    worker: str | None
    card: str | None
    progress: float | None
    result: Mapping[str, Any] | None
    metrics: Mapping[str, Any] | None
    model_revision: str | None
    error_code: str | None
    error: str | None
    idempotency_key: str | None
    pruned_at: float | None

    @property
    def batch(self) -> str:
        """The name of its batch; empty for a job without one."""
        return self.batch_id.removeprefix(f"{self.tenant}/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactView:
    """A file of a job."""

    job_id: str
    name: str
    role: str
    sha256: str
    size: int
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """How one attempt ended."""

    attempt: int
    worker: str | None
    card: str | None
    outcome: str
    error_code: str | None
    started_at: float | None
    finished_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as it last reported itself."""

    name: str
    incarnation: str
    host: str
    card: str
    pid: int
    models: list[str]
    slots: int
    started_at: float
    heartbeat_at: float
    draining: bool
    live: bool


_VIEW = tuple(getattr(Job, name) for name in JobView.__dataclass_fields__)


def _job(row: Row[Any]) -> JobView:
    values = dict(row._mapping)
    return JobView(**values | {"state": State(values["state"])})


def get_job(connection: Connection, job_id: str, tenant: str | None = None) -> JobView:
    """One job.

    Raises:
        NotFound: There is none of that id for the tenant.
    """
    query = select(*_VIEW).where(Job.id == job_id)
    if tenant is not None:
        query = query.where(Job.tenant == tenant)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"there is no job {job_id}; `soundmill jobs list` shows those there are")
    return _job(row)


def states(connection: Connection, ids: Collection[str]) -> dict[str, State]:
    """The states of jobs, by id; ids that nobody has are missing."""
    rows = connection.execute(select(Job.id, Job.state).where(Job.id.in_(ids)))
    return {row.id: State(row.state) for row in rows}


def page_of_jobs(
    connection: Connection,
    *,
    tenant: str | None = None,
    batch: str | None = None,
    states: Collection[State] = (),
    model: str | None = None,
    before_seq: int | None = None,
    after_seq: int | None = None,
    limit: int = 50,
) -> list[JobView]:
    """A page of jobs: the newest first, or in order of acceptance when `after_seq` is given.

    Page on with the `seq` of the last one as `before_seq` or `after_seq`.
    """
    query = select(*_VIEW)
    if tenant is not None:
        query = query.where(Job.tenant == tenant)
    place: tuple[Any, ...] = (Job.seq,)
    inside: tuple[str, ...] = ()
    if batch is not None and tenant is not None:
        inside = (f"{tenant}/{batch}",)
        place = (Job.batch_id, Job.seq)
        # Not by equality: PostgreSQL then leaves the batch out of the order, and may walk the whole
        # table by `seq` to find its rows.
        query = query.where(Job.batch_id.between(*inside * 2))
    elif batch is not None:
        query = query.where(Job.batch_id.in_(select(Batch.id).where(Batch.name == batch)))
    if states:
        # Written out, not bound: a planner takes a partial index only for what it can read.
        query = query.where(or_(*(Job.state == literal_column(f"'{state.value}'") for state in states)))
    if model is not None:
        query = query.where(Job.model == model)
    if before_seq is not None:
        query = query.where(tuple_(*place) < tuple_(*inside, before_seq))
    if after_seq is not None:
        query = query.where(tuple_(*place) > tuple_(*inside, after_seq)).order_by(*place)
    else:
        query = query.order_by(*(column.desc() for column in place))
    return [_job(row) for row in connection.execute(query.limit(limit))]


def artifacts_of(connection: Connection, job_id: str) -> list[ArtifactView]:
    """The files of a job, its inputs too, by name."""
    columns = (getattr(Artifact, name) for name in ArtifactView.__dataclass_fields__)
    rows = connection.execute(select(*columns).where(Artifact.job_id == job_id).order_by(Artifact.name))
    return [ArtifactView(**row._mapping) for row in rows]


def attempts_of(connection: Connection, job_id: str) -> list[AttemptView]:
    """The attempts of a job that have ended, oldest first."""
    columns = (getattr(Attempt, name) for name in AttemptView.__dataclass_fields__)
    rows = connection.execute(select(*columns).where(Attempt.job_id == job_id).order_by(Attempt.attempt))
    return [AttemptView(**row._mapping) for row in rows]


def parents_of(connection: Connection, job_id: str) -> list[str]:
    """The jobs that a job waits or waited for."""
    return list(connection.execute(select(JobParent.parent).where(JobParent.child == job_id)).scalars())


def batch_counts(connection: Connection, tenant: str) -> dict[str, dict[State, int]]:
    """The jobs of each batch of a tenant by state; the empty name holds those without a batch."""
    rows = connection.execute(select(Batch).where(Batch.tenant == tenant).order_by(Batch.id)).mappings()
    return {row["name"]: {state: row[state.value] for state in State} for row in rows}


def workers(connection: Connection, database: Database) -> list[WorkerView]:
    """All workers that ever reported, live ones marked."""
    now = database.time(connection)
    rows = connection.execute(select(Worker).order_by(Worker.name)).mappings()
    return [WorkerView(**row, live=now - row["heartbeat_at"] < LIVE_S) for row in rows]


def served_models(connection: Connection, database: Database) -> set[str]:
    """The models that a live worker, which is not draining, serves."""
    return {
        model
        for worker in workers(connection, database)
        if worker.live and not worker.draining
        for model in worker.models
    }


def paused_models(connection: Connection) -> set[str]:
    """The models whose queues stand still."""
    return set(connection.execute(select(Queue.model).where(Queue.paused.is_(True))).scalars())
