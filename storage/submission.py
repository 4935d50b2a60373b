"""Accepting jobs: rows in, all of a call or none. The commit is the acceptance.

A job with an idempotency key that is known is the job that has it, in whatever state that is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from .database import Database, chunks
from .errors import IdempotencyConflict, NotFound, SubmitRefused, Unstorable
from .families import PARENT_FAILED, PARENT_FAILED_WORDS
from .insertion import insert_jobs
from .jsontype import plain_to_json
from .lifecycle import FAILED, State
from .rows import Artifact, Batch, Blob, Job, JobParent
from .tally import Tally

# `json.dumps` with arguments of its own builds an encoder for every call.
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode

_STATES = {state.value: state for state in State}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInput:
    """Input audio that lies in the blob store already."""

    name: str
    sha256: str
    size: int
    media_type: str


@dataclass(slots=True, kw_only=True)  # not frozen, which costs a microsecond for each of millions
class NewJob:
    """A job that passed the catalogue.

    Attributes:
        id: Its ULID.
        digest: What its idempotency key binds, from `request_digest`; empty for a job without a key.
        parents: The ids of the jobs whose output it reads.
        delay_s: Not before this long after the commit.
        timeout_s: Final, one way or another, this long after the commit.
    """

    id: str
    tenant: str
    batch: str
    custom_id: str | None
    kind: str
    model: str
    args: Mapping[str, Any]
    args_version: int
    digest: str
    priority: int
    max_failures: int
    idempotency_key: str | None = None
    parents: tuple[str, ...] = ()
    inputs: tuple[StoredInput, ...] = ()
    delay_s: float = 0.0
    timeout_s: float | None = None
    model_revision: str | None = None

    @property
    def batch_id(self) -> str:
        """The key of its batch: the name within the tenant; an empty name is the tenant's own batch."""
        return f"{self.tenant}/{self.batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What became of a submitted job.

    Attributes:
        id: The job that answers for it; an older one where the idempotency key was known.
        state: The state of that job.
        fresh: Whether the row is new.
    """

    id: str
    state: State
    fresh: bool
    seq: int = field(compare=False)


def request_digest(kind: str, model: str, args: Mapping[str, Any]) -> str:
    """SHA-256 of the request in a canonical form, as hexadecimal digits."""
    return hashlib.sha256(_canonical([kind, model, args]).encode()).hexdigest()


def accept(connection: Connection, database: Database, jobs: Sequence[NewJob]) -> list[Accepted]:
    """Insert the jobs that are new, with their inputs, parents and counters.

    A parent may be one of `jobs`. If its idempotency key is known, its children wait for the job
    that has the key, and their arguments name that one.

    Args:
        connection: An open write transaction, which may be the caller's own.
        database: The database of the connection.
        jobs: In any order.

    Returns:
        One entry for each job, in order.

    Raises:
        IdempotencyConflict: A key belongs to a job with other arguments. Nothing must be committed.
        NotFound: A parent does not exist, or not for the tenant.
        SubmitRefused: Jobs wait for each other in a circle.
    """
    now = database.time(connection)
    _ensure_batches(connection, database, jobs, now)
    answers: dict[str, Accepted] = {}
    tally = Tally()
    for generation in _generations(jobs):
        heirs = [_with_true_parents(job, answers) for job in generation] if answers else generation
        standing = _lock_parents(connection, heirs)
        rows = [_row(job, now, standing) for job in heirs]
        places = insert_jobs(connection, database, rows)
        answers |= _answers(connection, heirs, rows, places)
        _insert_relations(connection, database, [job for job in heirs if job.id in places], now)
        fresh = Counter((row["batch_id"], row["state"]) for row in rows if row["id"] in places)
        for (batch_id, state), count in fresh.items():
            tally.add(batch_id, state, count)
    tally.write(connection)
    return [answers[job.id] for job in jobs]


def _generations(jobs: Sequence[NewJob]) -> Iterator[list[NewJob]]:
    """Parents before their children: those that wait for none of the others, and so on."""
    if not any(job.parents for job in jobs):
        yield list(jobs)
        return
    left = {job.id: job for job in jobs}
    while left:
        ready = [job for job in left.values() if left.keys().isdisjoint(job.parents)]
        if not ready:
            raise SubmitRefused(f"job {min(left)} waits for itself, through its parents; break the circle")
        yield ready
        for job in ready:
            del left[job.id]


def _with_true_parents(job: NewJob, answers: Mapping[str, Accepted]) -> NewJob:
    known = {id_: answers[id_].id for id_ in job.parents if id_ in answers and not answers[id_].fresh}
    if not known:
        return job
    parents = tuple(known.get(id_, id_) for id_ in job.parents)
    return replace(job, parents=parents, args=_renamed(job.args, known))


def _renamed(value: Any, ids: Mapping[str, str]) -> Any:
    """The arguments with other ids wherever they name a job: `{"job": …}`."""
    if isinstance(value, Mapping):
        if value.keys() == {"job"} and value["job"] in ids:
            return {"job": ids[value["job"]]}
        return {name: _renamed(item, ids) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_renamed(item, ids) for item in value]
    return value


def _row(job: NewJob, now: float, parents: Mapping[str, State]) -> dict[str, Any]:
    pending, cancelled = 0, False
    if job.parents:
        states = [parents[id_] for id_ in set(job.parents)]
        pending = sum(state != State.COMPLETED for state in states)
        cancelled = any(state in FAILED for state in states)
    state = State.AVAILABLE
    if cancelled:
        state = State.CANCELLED
    elif pending or job.delay_s > 0:
        state = State.SCHEDULED
    ready_at = now + job.delay_s if job.delay_s > 0 else None
    return {
        "id": job.id,
        "tenant": job.tenant,
        "batch_id": job.batch_id,
        "custom_id": job.custom_id,
        "kind": job.kind,
        "model": job.model,
        "model_revision": job.model_revision,
        "args": _stored(job.args),
        "args_version": job.args_version,
        "args_digest": job.digest,
        "state": state.value,
        "priority": job.priority,
        "max_failures": job.max_failures,
        "pending_parents": pending,
        "submitted_at": now,
        "scheduled_at": ready_at,
        "available_at": now if state == State.AVAILABLE else ready_at,
        "deadline_at": now + job.timeout_s if job.timeout_s is not None else None,
        "finished_at": now if cancelled else None,
        "error_code": PARENT_FAILED if cancelled else None,
        "error": PARENT_FAILED_WORDS if cancelled else None,
        "idempotency_key": job.idempotency_key,
    }


def _stored(args: Mapping[str, Any]) -> str:
    try:
        return plain_to_json(dict(args))
    except (TypeError, ValueError) as error:
        raise Unstorable(f"the job table cannot keep these arguments: {error}") from error


def _ensure_batches(connection: Connection, database: Database, jobs: Sequence[NewJob], now: float) -> None:
    batches = {job.batch_id: job for job in jobs}
    known: set[str] = set()
    for some in chunks(list(batches)):
        # Held until the commit: a batch whose last job is pruned meanwhile must not go.
        held = select(Batch.id).where(Batch.id.in_(some)).order_by(Batch.id)
        held = held.with_for_update(read=True, key_share=True)
        known |= set(connection.execute(held).scalars())
    rows = [
        {"id": batch_id, "tenant": job.tenant, "name": job.batch, "created_at": now}
        for batch_id, job in sorted(batches.items())
        if batch_id not in known
    ]
    if rows:
        connection.execute(insert_ignoring(database, Batch), rows)


def _insert(database: Database, table: type[Any]) -> Any:
    return (postgresql_insert if database.dialect == "postgresql" else sqlite_insert)(table)


def _lock_parents(connection: Connection, jobs: Sequence[NewJob]) -> dict[str, State]:
    """Hold the parents as they are until the commit; return their states."""
    wanted = {parent for job in jobs for parent in job.parents}
    found: dict[str, tuple[str, State]] = {}
    for some in chunks(sorted(wanted)):
        # The lock makes a parent's settle wait for this commit, so that it sees the new child.
        query = (
            select(Job.id, Job.tenant, Job.state)
            .where(Job.id.in_(some), Job.pruned_at.is_(None))
            .order_by(Job.id)
        )
        for row in connection.execute(query.with_for_update(read=True)):
            found[row.id] = row.tenant, State(row.state)
    for job in jobs:
        for parent in job.parents:
            if parent not in found or found[parent][0] != job.tenant:
                raise NotFound(f"there is no job {parent} to take the input from")
    return {id_: state for id_, (_, state) in found.items()}


def _answers(
    connection: Connection,
    jobs: Sequence[NewJob],
    rows: Sequence[Mapping[str, Any]],
    places: Mapping[str, int],
) -> dict[str, Accepted]:
    answers = {
        id_: Accepted(id=id_, state=_STATES[row["state"]], fresh=True, seq=places[id_])
        for row in rows
        if (id_ := row["id"]) in places
    }
    if len(answers) < len(jobs):
        answers |= _known_jobs(connection, [job for job in jobs if job.id not in places])
    return answers


def _known_jobs(connection: Connection, jobs: Sequence[NewJob]) -> dict[str, Accepted]:
    """The jobs that have the keys of those that were not inserted."""
    columns = select(Job.id, Job.seq, Job.state, Job.args_digest, Job.tenant, Job.idempotency_key)
    found: dict[tuple[str, str | None], Any] = {}
    for few in chunks(jobs):
        tenants, keys = {job.tenant for job in few}, {job.idempotency_key for job in few}
        query = columns.where(Job.tenant.in_(tenants), Job.idempotency_key.in_(keys))
        found |= {(row.tenant, row.idempotency_key): row for row in connection.execute(query)}
    answers = {}
    for job in jobs:
        row = found[job.tenant, job.idempotency_key]
        if row.args_digest != job.digest:
            raise IdempotencyConflict(
                f"the idempotency key {job.idempotency_key!r} belongs to job {row.id}, which has other "
                "arguments; choose another key, or submit those arguments",
                field="idempotency_key",
            )
        answers[job.id] = Accepted(id=row.id, state=State(row.state), fresh=False, seq=row.seq)
    return answers


def _insert_relations(connection: Connection, database: Database, jobs: Sequence[NewJob], now: float) -> None:
    parents = [{"child": job.id, "parent": parent} for job in jobs for parent in sorted(set(job.parents))]
    inputs = [(job, item) for job in jobs for item in job.inputs]
    if parents:
        connection.execute(insert(JobParent), parents)
    if inputs:
        record_blobs(connection, database, {(item.sha256, item.size) for _, item in inputs}, now)
        connection.execute(
            insert(Artifact),
            [
                {"job_id": job.id, "name": item.name, "role": "input", "sha256": item.sha256,
                 "size": item.size, "media_type": item.media_type, "attempt": 0, "created_at": now}
                for job, item in inputs
            ],
        )  # fmt: skip


def record_blobs(
    connection: Connection, database: Database, blobs: Iterable[tuple[str, int]], now: float
) -> None:
    """Note blobs that were stored, or refresh those that are known, before anything refers to them."""
    statement = _insert(database, Blob)
    statement = statement.on_conflict_do_update(
        index_elements=["sha256"], set_={"touched_at": statement.excluded.touched_at}
    )
    # In the order of the hash: two transactions that store the same blobs must not deadlock.
    rows = [{"sha256": sha256, "size": size, "touched_at": now} for sha256, size in sorted(blobs)]
    if rows:
        connection.execute(statement, rows)


def insert_ignoring(database: Database, table: type[Any]) -> Any:
    """An insert that leaves a row of the same key as it is."""
    return _insert(database, table).on_conflict_do_nothing()


def upsert(database: Database, table: type[Any], values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """An insert that overwrites the row of the same key instead."""
    statement = _insert(database, table).values(values)
    changed = {name: statement.excluded[name] for name in values if name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)
