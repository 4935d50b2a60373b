"""The window: which of the available jobs have a message in Redis, and which get one next.

The backlog stays in the table; Redis holds a bounded number of messages for each queue and
priority step. Picks go by priority, then round over the batches, then in order of acceptance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import ceil
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Integer, bindparam, func, literal_column, select, update

from .database import Database, chunks
from .lifecycle import State
from .priorities import step_of
from .rows import Batch, Job

if TYPE_CHECKING:
    from sqlalchemy.sql.elements import ColumnElement

# A bound value would hide from the planner that the partial indexes apply.
_AVAILABLE: ColumnElement[str] = literal_column(f"'{State.AVAILABLE.value}'")
UNPUBLISHED = (Job.state == _AVAILABLE, Job.published_at.is_(None))
PUBLISHED = (Job.state == _AVAILABLE, Job.published_at.is_not(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """What a message needs to know of a job."""

    id: str
    kind: str
    model: str
    priority: int
    attempt: int

    @property
    def lane(self) -> tuple[str, int]:
        """The queue and the priority step that its message goes to."""
        return self.model, step_of(self.priority)


_WAKE = (Job.id, Job.kind, Job.model, Job.priority, Job.attempt)

# Built once: a pick asks them for every batch that has something to do. Each finds the next table, or
# the next batch of a table, with one seek along the index, however many jobs lie in between.
_FIRST_TABLE = select(Job.model, Job.priority).where(*UNPUBLISHED).order_by(Job.model, Job.priority).limit(1)
# Two questions and not `(model, priority) > (…)`: from there SQLite walks along all jobs of that place.
_NEXT_PRIORITY = _FIRST_TABLE.where(Job.model == bindparam("model"), Job.priority > bindparam("priority"))
_NEXT_MODEL = _FIRST_TABLE.where(Job.model > bindparam("model"))
AT_TABLE = (*UNPUBLISHED, Job.model == bindparam("model"), Job.priority == bindparam("priority"))
_NEXT_BATCH = (
    select(Job.batch_id).where(*AT_TABLE, Job.batch_id > bindparam("batch")).order_by(Job.batch_id).limit(1)
)
_OLDEST = (
    select(*_WAKE)
    .where(*AT_TABLE, Job.batch_id == bindparam("batch"))
    .order_by(Job.seq)
    .limit(bindparam("count", type_=Integer()))
    .offset(bindparam("skip", type_=Integer()))
)


def pick(
    connection: Connection, room: Mapping[tuple[str, int], int], paused: Collection[str] = ()
) -> list[Wake]:
    """Choose the jobs that get the next messages.

    Reads O(room + active batches) rows.

    Args:
        connection: A read transaction.
        room: How many messages each lane may take; a lane that is missing takes none.
        paused: Models whose queues stand still.
    """
    left = dict(room)
    picked: list[Wake] = []
    for model, priority in sorted(tables(connection), key=lambda table: -table[1]):
        lane = (model, step_of(priority))
        if left.get(lane, 0) > 0 and model not in paused:
            batches = _in_turn(connection, batches_at(connection, model, priority))
            chosen = _round(connection, model, priority, batches, left[lane])
            left[lane] -= len(chosen)
            picked += chosen
    return picked


def tables(connection: Connection) -> Iterator[tuple[str, int]]:
    """The models and priorities that have jobs to pick."""
    row = connection.execute(_FIRST_TABLE).first()
    while row is not None:
        model, priority = row
        yield model, priority
        row = (
            connection.execute(_NEXT_PRIORITY, {"model": model, "priority": priority}).first()
            or connection.execute(_NEXT_MODEL, {"model": model}).first()
        )


def batches_at(connection: Connection, model: str, priority: int) -> list[str]:
    """The batches that have jobs to pick at a table."""
    batches: list[str] = []
    last: str | None = ""  # no batch's id is empty
    while last is not None:
        values = {"model": model, "priority": priority, "batch": last}
        last = connection.execute(_NEXT_BATCH, values).scalar()
        batches += [last] if last is not None else []
    return batches


def _in_turn(connection: Connection, batches: Sequence[str]) -> list[str]:
    if len(batches) == 1:
        return list(batches)
    turns: dict[str, int] = {}
    for some in chunks(batches):
        rows = connection.execute(select(Batch.id, Batch.turn).where(Batch.id.in_(some)))
        turns |= {row.id: row.turn for row in rows}
    return sorted(batches, key=lambda batch: (turns[batch], batch))


def _round(
    connection: Connection, model: str, priority: int, batches: Sequence[str], room: int
) -> list[Wake]:
    """Take one job of each batch in turn until the room is used or the batches are empty."""
    hands: dict[str, list[Wake]] = {batch: [] for batch in batches[:room]}
    deep = list(hands)  # those that may have more
    while deep and (left := room - sum(map(len, hands.values()))) > 0:
        share = ceil(left / len(deep))
        for batch in list(deep):
            more = _oldest(connection, model, priority, batch, share, skip=len(hands[batch]))
            hands[batch] += more
            if len(more) < share:  # what it left is shared out among the others
                deep.remove(batch)
    return [wake for turn in zip_longest(*hands.values()) for wake in turn if wake is not None][:room]


def _oldest(
    connection: Connection, model: str, priority: int, batch: str, count: int, *, skip: int = 0
) -> list[Wake]:
    values = {"model": model, "priority": priority, "batch": batch, "count": count, "skip": skip}
    return [Wake(**row._mapping) for row in connection.execute(_OLDEST, values)]


def mark_published(connection: Connection, database: Database, wakes: Sequence[Wake]) -> None:
    """Note that messages went out, for the jobs that still wait for the same attempt."""
    for attempt in {wake.attempt for wake in wakes}:
        for ids in chunks(sorted(wake.id for wake in wakes if wake.attempt == attempt)):
            # One that somebody has locked is being claimed or cancelled: waiting for it would be for
            # nothing, and in another order than theirs a deadlock.
            waiting = (
                select(Job.id)
                .where(Job.id.in_(ids), Job.state == _AVAILABLE, Job.attempt == attempt)
                .with_for_update(skip_locked=True)
            )
            connection.execute(update(Job).where(Job.id.in_(waiting)).values(published_at=database.now()))


def take_turns(connection: Connection, picked: Sequence[Wake]) -> None:
    """Move the batches that were picked from to the end of the ring."""
    batches: set[str] = set()
    for ids in chunks([wake.id for wake in picked]):
        batches |= set(connection.execute(select(Job.batch_id).where(Job.id.in_(ids)).distinct()).scalars())
    last = connection.execute(select(func.max(Batch.turn))).scalar() or 0
    for some in chunks(sorted(batches)):
        # In the order in which counters are written, or the two could wait for each other in a circle.
        connection.execute(
            select(Batch.id).where(Batch.id.in_(some)).order_by(Batch.id).with_for_update(key_share=True)
        ).all()
        connection.execute(update(Batch).where(Batch.id.in_(some)).values(turn=last + 1))


def wakes_of(connection: Connection, ids: Collection[str]) -> list[Wake]:
    """What messages for these jobs need, for those that are available and have none."""
    rows = connection.execute(
        select(*_WAKE).where(*UNPUBLISHED, Job.id.in_(ids)).order_by(Job.priority.desc(), Job.seq)
    )
    return [Wake(**row._mapping) for row in rows]


def backlog_before(connection: Connection, model: str, priority: int, seq: int) -> bool:
    """Whether an unpublished job would be overtaken by a message for a job of this place."""
    query = (
        select(Job.id)
        .where(*UNPUBLISHED, Job.model == model, Job.priority >= priority, Job.seq < seq)
        # Any one will do; without an order PostgreSQL may look for it among all older jobs.
        .order_by(Job.priority, Job.batch_id, Job.seq)
        .limit(1)
    )
    return connection.execute(query).first() is not None
