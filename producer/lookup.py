"""Questions that only submitters ask the job table. The tenant is part of every one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, literal_column, or_, select

from soundmill.storage import window
from soundmill.storage.lifecycle import FINAL, State
from soundmill.storage.listing import JobView
from soundmill.storage.rows import Artifact, Batch, Job

_VIEW = tuple(getattr(Job, name) for name in JobView.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey:
    """The job that an idempotency key belongs to."""

    id: str
    seq: int
    kind: str
    state: State
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedBlob:
    """A blob that one of the tenant's jobs read or made."""

    sha256: str
    size: int
    media_type: str


def known_keys(connection: Connection, tenant: str, keys: Collection[str]) -> dict[str, KnownKey]:
    """The jobs of idempotency keys, by key; keys that are free are missing."""
    rows = connection.execute(
        select(Job.idempotency_key, Job.id, Job.seq, Job.kind, Job.state, Job.args_digest).where(
            Job.tenant == tenant, Job.idempotency_key.in_(keys)
        )
    )
    return {
        str(row.idempotency_key): KnownKey(
            id=row.id, seq=row.seq, kind=row.kind, state=State(row.state), digest=row.args_digest
        )
        for row in rows
    }


def kinds_of(connection: Connection, tenant: str, ids: Collection[str]) -> dict[str, str]:
    """The kinds of jobs, by id; those that the tenant does not have are missing."""
    rows = connection.execute(select(Job.id, Job.kind).where(Job.tenant == tenant, Job.id.in_(ids)))
    return {row.id: row.kind for row in rows}


def owned_blobs(connection: Connection, tenant: str, hashes: Collection[str]) -> dict[str, OwnedBlob]:
    """The blobs of these hashes that belong to jobs of the tenant: a hash alone opens nothing."""
    rows = connection.execute(
        select(Artifact.sha256, Artifact.size, Artifact.media_type)
        .join(Job, Job.id == Artifact.job_id)
        .where(Artifact.sha256.in_(hashes), Job.tenant == tenant)
    )
    return {row.sha256: OwnedBlob(**row._mapping) for row in rows}


def views(connection: Connection, tenant: str, ids: Collection[str]) -> dict[str, JobView]:
    """Jobs by id; those that the tenant does not have are missing."""
    return _by_id(connection.execute(select(*_VIEW).where(Job.tenant == tenant, Job.id.in_(ids))).all())


def watched(
    connection: Connection, tenant: str, ids: Collection[str], unseen: Collection[str]
) -> dict[str, JobView]:
    """Those of `ids` that are final, and all of `unseen`, by id, in one query.

    One that is missing although it is in `unseen` does not exist.
    """
    final = and_(Job.id.in_(ids), Job.state.in_(sorted(FINAL)))
    wanted = or_(final, Job.id.in_(unseen)) if unseen else final
    return _by_id(connection.execute(select(*_VIEW).where(Job.tenant == tenant, wanted)).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a summary needs to know of a job of a batch."""

    id: str
    seq: int
    custom_id: str | None
    state: State
    audio_s: float
    error: str | None


def outlines(connection: Connection, tenant: str, batch: str, after_seq: int, limit: int) -> list[Outline]:
    """A page of the jobs of a batch, in order of acceptance, after one of them."""
    rows = connection.execute(
        select(Job.id, Job.seq, Job.custom_id, Job.state, Job.metrics, Job.error)
        .where(Job.batch_id == f"{tenant}/{batch}", Job.tenant == tenant, Job.seq > after_seq)
        .order_by(Job.seq)
        .limit(limit)
    )
    return [
        Outline(
            id=row.id,
            seq=row.seq,
            custom_id=row.custom_id,
            state=State(row.state),
            audio_s=float((row.metrics or {}).get("audio_s") or 0.0),
            error=row.error,
        )
        for row in rows
    ]


def counts_of_batch(connection: Connection, tenant: str, batch: str) -> dict[State, int]:
    """The jobs of one batch by state; all zero if there is none of that name."""
    columns = [getattr(Batch, state.value) for state in State]
    row = connection.execute(select(*columns).where(Batch.id == f"{tenant}/{batch}")).first()
    return dict.fromkeys(State, 0) if row is None else dict(zip(State, row, strict=True))


def waiting_and_executing(connection: Connection, model: str, limit: int) -> tuple[int, int]:
    """How many jobs of a model are available (counted up to `limit`) and executing, of all tenants.

    The state of a queue is the host's: its jobs are counted, not shown.
    """
    conditions = (*window.UNPUBLISHED, Job.model == model), (*window.PUBLISHED, Job.model == model)
    available = sum(_count(connection, where, limit) for where in conditions)
    executing = _count(connection, (Job.state == literal_column("'executing'"), Job.model == model), limit)
    return min(available, limit), executing


def _count(connection: Connection, where: Sequence[ColumnElement[bool]], limit: int) -> int:
    rows = select(Job.seq).where(*where).limit(limit).subquery()
    return int(connection.execute(select(func.count()).select_from(rows)).scalar_one())


def _by_id(rows: Collection[Row[Any]]) -> dict[str, JobView]:
    return {row.id: JobView(**dict(row._mapping) | {"state": State(row.state)}) for row in rows}
