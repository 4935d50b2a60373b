"""The tables. What happens to a row stands in the module that changes it; here is what it means.

Times are seconds since 1970 (UTC) in double precision: one arithmetic on SQLite and PostgreSQL.
They are the database's clock on PostgreSQL and the host's on SQLite (see `database.py`).
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Integer, MetaData, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .jsontype import Json

# SQLite gives ids to INTEGER primary keys only.
BigId = BigInteger().with_variant(Integer, "sqlite")


# A constraint without a name of ours could not be dropped by a later migration on SQLite.
NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        float: Double(),
        dict[str, Any]: Json(),
        list[str]: Json(),
    }


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows that meet a condition, on both databases."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class Job(Base):
    """One request. The row is the truth; a message on a queue is only a wake-up."""

    __tablename__ = "jobs"

    seq: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    """The order of acceptance. ULIDs of several hosts are not first in, first out; this is."""
    id: Mapped[str] = mapped_column(String(26), unique=True)
    tenant: Mapped[str] = mapped_column(String(64))
    batch_id: Mapped[str] = mapped_column(String(255))
    """Its batch, which is made with its first job and goes after its last. No foreign key: PostgreSQL would check
    and lock the batch anew for every job of an insert, which takes longer than the insert."""
    custom_id: Mapped[str | None] = mapped_column(Text)
    """The submitter's own name for the line."""
    kind: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(64))
    """The model's id; also the name of its queue."""
    args: Mapped[dict[str, Any]]
    """The arguments, every field given, references to other jobs resolved to ids."""
    args_version: Mapped[int] = mapped_column(default=1)
    args_digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of what was submitted, before aliases were resolved: what an idempotency key binds. Empty without
    a key."""
    state: Mapped[str] = mapped_column(String(10))
    priority: Mapped[int] = mapped_column(default=4)
    """0 to 9, 9 first."""
    attempt: Mapped[int] = mapped_column(default=0)
    """The fence: how often it was claimed. Only grows."""
    failures: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    kills: Mapped[int] = mapped_column(server_default="0")
    """How often its worker was killed, or fell silent, while it ran alone: by somebody, or because of it."""
    max_failures: Mapped[int] = mapped_column(default=3)
    suspect: Mapped[bool] = mapped_column(default=False)
    """It was running when a worker died, so it runs with nothing else on the card."""
    alone: Mapped[bool] = mapped_column(default=False)
    """The current attempt has the card to itself: if the worker dies now, this job did it."""
    pending_parents: Mapped[int] = mapped_column(default=0)
    submitted_at: Mapped[float]
    scheduled_at: Mapped[float | None]
    """Not before this time, as the submitter asked."""
    available_at: Mapped[float | None]
    """When it may run: now, the scheduled time, or the end of the backoff."""
    published_at: Mapped[float | None]
    """When a message for it was last put on the queue; `None` when it needs one."""
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    deadline_at: Mapped[float | None]
    lease_until: Mapped[float | None]
    cancel_requested_at: Mapped[float | None]
    worker: Mapped[str | None] = mapped_column(String(128))
    """The incarnation that holds, or last held, the lease."""
    card: Mapped[str | None] = mapped_column(String(32))
    progress: Mapped[float | None]
    result: Mapped[dict[str, Any] | None]
    metrics: Mapped[dict[str, Any] | None]
    model_revision: Mapped[str | None] = mapped_column(String(64))
    error_code: Mapped[str | None] = mapped_column(String(40))
    error: Mapped[str | None] = mapped_column(Text)
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    pruned_at: Mapped[float | None]
    """When all but its key was removed, so that the same submit does not run again for a while."""

    # One partial index for each periodic question, so that each reads only what it answers with.
    __table_args__ = (
        _partial("ix_jobs_unpublished", "model", "priority", "batch_id", "seq",
                 where="state = 'available' AND published_at IS NULL"),
        _partial("ix_jobs_published", "model", "published_at",
                 where="state = 'available' AND published_at IS NOT NULL"),
        _partial("ix_jobs_due", "available_at",
                 where="state IN ('scheduled', 'retryable') AND pending_parents = 0"),
        _partial("ix_jobs_waiting_for_parents", "seq",
                 where="state = 'scheduled' AND pending_parents > 0"),
        _partial("ix_jobs_leased", "lease_until", where="state = 'executing'"),
        _partial("ix_jobs_deadline", "deadline_at", where="deadline_at IS NOT NULL AND finished_at IS NULL"),
        _partial("ix_jobs_discarded", "seq", where="state = 'discarded'"),
        _partial("uq_jobs_idempotency", "tenant", "idempotency_key",
                 where="idempotency_key IS NOT NULL", unique=True),
        Index("ix_jobs_batch", "batch_id", "seq"),
        {"sqlite_autoincrement": True},
    )  # fmt: skip


class Attempt(Base):
    """What became of one attempt. Written once, when it ended; never changed."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(String(26), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str | None] = mapped_column(String(128))
    card: Mapped[str | None] = mapped_column(String(32))
    outcome: Mapped[str] = mapped_column(String(12))
    """completed, failed, discarded, cancelled, handed_back, lost or crashed."""
    error_code: Mapped[str | None] = mapped_column(String(40))
    started_at: Mapped[float | None]
    finished_at: Mapped[float]


class Batch(Base):
    """Jobs that belong together, and one seat in the ring of the fair pick.

    The counters change in the transaction that moves a job. Jobs submitted without a batch are
    counted as one batch per tenant, whose name is empty.
    """

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    """`<tenant>/<name>`."""
    tenant: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(190))
    created_at: Mapped[float]
    turn: Mapped[int] = mapped_column(BigInteger, default=0, index=True)
    """When it was last picked from; the batch with the smallest is next."""
    scheduled: Mapped[int] = mapped_column(default=0)
    available: Mapped[int] = mapped_column(default=0)
    executing: Mapped[int] = mapped_column(default=0)
    retryable: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    cancelled: Mapped[int] = mapped_column(default=0)
    discarded: Mapped[int] = mapped_column(default=0)
    held_until: Mapped[float | None]
    """Until then nothing of it is pruned: somebody reads it from its first job to its last."""


class JobParent(Base):
    """`child` reads what `parent` makes, and waits for it."""

    __tablename__ = "job_parents"

    child: Mapped[str] = mapped_column(String(26), primary_key=True)
    parent: Mapped[str] = mapped_column(String(26), primary_key=True, index=True)


class Blob(Base):
    """Bytes that lie in the blob store. Only the collector removes a row, and the bytes with it."""

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    touched_at: Mapped[float] = mapped_column(index=True)
    """When a writer last stored or found it. A young blob may be on its way into an artifact."""


class Artifact(Base):
    """A named file of a job: what it read (role `input`) or what its winning attempt made."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(String(26), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    role: Mapped[str] = mapped_column(String(32))
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(64))
    attempt: Mapped[int]
    created_at: Mapped[float]


class Queue(Base):
    """A model's queue, once somebody paused it."""

    __tablename__ = "queues"

    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    paused: Mapped[bool] = mapped_column(default=False)
    changed_at: Mapped[float]


class Worker(Base):
    """The process of one card, as it last reported itself."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    """`<card>@<host>`, as Flower shows it; the same after a restart."""
    incarnation: Mapped[str] = mapped_column(String(128))
    host: Mapped[str] = mapped_column(String(96))
    card: Mapped[str] = mapped_column(String(32))
    pid: Mapped[int]
    models: Mapped[list[str]]
    slots: Mapped[int]
    started_at: Mapped[float]
    heartbeat_at: Mapped[float]
    draining: Mapped[bool] = mapped_column(default=False)
    """Set by `worker drain` and kept over restarts: it finishes what it has and takes nothing new."""


class Leader(Base):
    """Who runs the dispatcher and the reaper, until when."""

    __tablename__ = "leader"

    role: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str] = mapped_column(String(128))
    lease_until: Mapped[float]
