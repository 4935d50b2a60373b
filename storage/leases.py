"""The leases of the jobs that a worker holds: renewed while it lives, and where it hears of cancels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, literal, select, update

from .database import Database
from .jsontype import Json
from .lifecycle import State
from .rows import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an attempt is.

    Attributes:
        share: The part that is done, 0 to 1.
        made: What there is so far, such as frames and seconds of audio. Until the job is settled it
            stands in the place of the metrics.
    """

    share: float | None = None
    made: Mapping[str, float | int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a heartbeat learnt.

    Attributes:
        held: The leases that still hold.
        cancelled: Those of them whose jobs are to stop.
        locked: Those of them that were not renewed, since somebody else has the row just now.
    """

    held: frozenset[tuple[str, int]]
    cancelled: frozenset[tuple[str, int]]
    locked: frozenset[tuple[str, int]] = frozenset()


def keep(
    connection: Connection,
    database: Database,
    attempts: Mapping[tuple[str, int], Progress],
    *,
    worker: str,
    lease_s: float,
) -> Kept:
    """Renew the leases of a worker and learn which jobs are cancelled.

    It waits for nobody: one row that somebody else holds must not cost all the others their leases. As long
    as it is held, the reaper cannot have it either.

    Args:
        connection: An open write transaction.
        database: Its database.
        attempts: (job, attempt) and its progress so far.
        worker: The incarnation that holds them.
        lease_s: How long from now.
    """
    ids = sorted(job for job, _ in attempts)
    shares = {job: said.share for (job, _), said in attempts.items() if said.share is not None}
    made = {job: literal(dict(said.made), Json()) for (job, _), said in attempts.items() if said.made}
    values: dict[str, Any] = {"lease_until": database.now() + lease_s}
    if shares:
        values["progress"] = case(shares, value=Job.id, else_=Job.progress)
    if made:
        values["metrics"] = case(made, value=Job.id, else_=Job.metrics)
    ours = (Job.state == State.EXECUTING, Job.worker == worker)
    # In the order in which the settles of the same process, and whoever cancels, lock them.
    held_here = (
        select(Job.id).where(Job.id.in_(ids), *ours).order_by(Job.id).with_for_update(skip_locked=True)
    )
    rows = connection.execute(
        update(Job)
        .where(Job.id.in_(held_here))
        .values(values)
        .returning(Job.id, Job.attempt, Job.cancel_requested_at)
    ).all()
    left = sorted(set(ids) - {row.id for row in rows})
    locked: Sequence[Any] = ()
    if left and database.dialect == "postgresql":
        known = select(Job.id, Job.attempt, Job.cancel_requested_at).where(Job.id.in_(left), *ours)
        locked = connection.execute(known).all()
    held = frozenset((row.id, row.attempt) for row in (*rows, *locked)) & attempts.keys()
    cancelled = {(row.id, row.attempt) for row in (*rows, *locked) if row.cancel_requested_at is not None}
    return Kept(
        held=frozenset(held),
        cancelled=frozenset(cancelled & held),
        locked=frozenset((row.id, row.attempt) for row in locked) & held,
    )
