"""Questions that only submitters ask the job table. The tenant is part of every one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    RowMapping,
    and_,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)

from soundmill.storage import window
from soundmill.storage.errors import NotFound
from soundmill.storage.lifecycle import FINAL, State
from soundmill.storage.listing import ArtifactView, JobView
from soundmill.storage.membership import among
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
    pruned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedBlob:
    """A blob that one of the tenant's jobs read or made."""

    sha256: str
    size: int
    media_type: str


def known_keys(connection: Connection, tenant: str, keys: Collection[str]) -> dict[str, KnownKey]:
    """The jobs of idempotency keys, by key; keys that are free are missing."""
    rows = connection.execute(
        select(
            Job.idempotency_key, Job.id, Job.seq, Job.kind, Job.state, Job.args_digest, Job.pruned_at
        ).where(Job.tenant == tenant, among(connection, Job.idempotency_key, keys))
    )
    return {
        str(row.idempotency_key): KnownKey(
            id=row.id,
            seq=row.seq,
            kind=row.kind,
            state=State(row.state),
            digest=row.args_digest,
            pruned=row.pruned_at is not None,
        )
        for row in rows
    }


def kinds_of(
    connection: Connection, tenant: str, ids: Collection[str], *, whole: bool = False
) -> dict[str, str]:
    """The kinds of jobs, by id; those that the tenant does not have are missing, if `whole` pruned ones too."""
    query = select(Job.id, Job.kind).where(Job.tenant == tenant, Job.id.in_(ids))
    rows = connection.execute(query.where(Job.pruned_at.is_(None)) if whole else query)
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
    final = and_(among(connection, Job.id, ids), Job.state.in_(sorted(FINAL)))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch and its counters."""

    name: str
    created_at: float
    counts: Mapping[State, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def completed(self) -> int:
        return self.counts[State.COMPLETED]

    @property
    def unfinished(self) -> int:
        return sum(count for state, count in self.counts.items() if not state.final)

    @property
    def failed(self) -> int:
        """Jobs that will not complete."""
        return self.counts[State.DISCARDED] + self.counts[State.CANCELLED]


def batches(connection: Connection, tenant: str, limit: int) -> list[BatchView]:
    """The batches of the tenant, the newest first."""
    rows = connection.execute(
        select(Batch.__table__).where(Batch.tenant == tenant).order_by(Batch.created_at.desc(), Batch.id)
        .limit(limit)
    ).mappings()  # fmt: skip
    return [_batch(row) for row in rows]


def batch_of(connection: Connection, tenant: str, name: str) -> BatchView:
    """One batch.

    Raises:
        NotFound: The tenant has none of that name.
    """
    query = select(Batch.__table__).where(Batch.id == f"{tenant}/{name}")
    row = connection.execute(query).mappings().first()
    if row is None:
        known = [view.name for view in batches(connection, tenant, 1000)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`soundmill batch list` shows those there are"
        raise NotFound(f"there is no batch {name!r}; {hint}")
    return _batch(row)


def _batch(row: RowMapping) -> BatchView:
    counts = {state: row[state.value] for state in State}
    return BatchView(name=row["name"], created_at=row["created_at"], counts=counts)


class Ending(NamedTuple):
    """How one job of a batch ended, as far as a summary needs it. A tuple: there may be a million."""

    seq: int
    kind: str
    model: str
    model_revision: str | None
    state: str
    error_code: str | None
    metrics: Mapping[str, Any] | None
    finished_at: float | None


_ENDING = tuple(getattr(Job, name) for name in Ending._fields)


def endings(connection: Connection, tenant: str, batch: str, after_seq: int, limit: int) -> list[Ending]:
    """A page of the jobs of a batch, in order of acceptance, after one of them."""
    batch_id = f"{tenant}/{batch}"
    rows = connection.execute(
        select(*_ENDING)
        # As in `page_of_jobs`: by equality, PostgreSQL may walk the whole table instead of the index.
        .where(
            Job.batch_id.between(batch_id, batch_id), tuple_(Job.batch_id, Job.seq) > (batch_id, after_seq)
        )
        .order_by(Job.batch_id, Job.seq)
        .limit(limit)
    )
    return [Ending(*row) for row in rows]


def artifacts_of_jobs(
    connection: Connection, tenant: str, ids: Collection[str]
) -> dict[str, list[ArtifactView]]:
    """The files of jobs, their inputs too, by id and then by name."""
    columns = (getattr(Artifact, name) for name in ArtifactView.__dataclass_fields__)
    rows = connection.execute(
        select(*columns)
        .join(Job, Job.id == Artifact.job_id)
        .where(Artifact.job_id.in_(ids), Job.tenant == tenant)
        .order_by(Artifact.job_id, Artifact.name)
    )
    found: dict[str, list[ArtifactView]] = {}
    for row in rows:
        found.setdefault(row.job_id, []).append(ArtifactView(**row._mapping))
    return found
