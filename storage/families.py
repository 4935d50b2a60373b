"""Parents and children: who waits for whom, and what a parent's end means for its children.

A child waits while any parent is unfinished. The transaction that completes the last parent frees
it; the one that cancels or discards a parent cancels all who still wait for it, to any depth. A
child that was cancelled for that reason comes back when the parent is retried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, bindparam, exists, func, or_, select, update
from sqlalchemy.orm import aliased

from .database import Database, chunks
from .lifecycle import FAILED, FINAL, State
from .membership import among_bound
from .rows import Job, JobParent
from .tally import Tally

PARENT_FAILED = "parent_failed"
PARENT_FAILED_WORDS = "a job that this one waits for was cancelled or discarded; retry that one first"


# Asked by every settle, and built once: most jobs have no children.
@cache
def _waiting_children(dialect: str) -> Executable:
    return (
        select(JobParent.child, func.count())
        .where(among_bound(dialect, JobParent.parent, "parents"))
        .group_by(JobParent.child)
        .order_by(JobParent.child)
    )


def release_children(
    connection: Connection, database: Database, completed: Collection[str], tally: Tally
) -> list[str]:
    """Count the completed parents off their children; return the ids of those that may run now."""
    waiting = connection.execute(_waiting_children(database.dialect), {"parents": sorted(completed)}).all()
    if not waiting:
        return []
    connection.execute(
        update(Job)
        .where(Job.id == bindparam("child"), Job.state == State.SCHEDULED)
        .values(pending_parents=Job.pending_parents - bindparam("done")),
        [{"child": child, "done": done} for child, done in waiting],
    )
    return make_due_available(connection, database, [child for child, _ in waiting], tally)


def make_due_available(
    connection: Connection, database: Database, ids: Collection[str], tally: Tally
) -> list[str]:
    """Move those of `ids` whose parents are done and whose time has come to `available`."""
    now = database.now()
    freed: list[str] = []
    for some in chunks(sorted(ids)):
        rows = connection.execute(
            update(Job)
            .where(
                Job.id.in_(some),
                Job.state == State.SCHEDULED,
                Job.pending_parents == 0,
                or_(Job.available_at.is_(None), Job.available_at <= now),
            )
            .values(
                state=State.AVAILABLE.value,
                available_at=now,  # a time that it was to wait for may be long past: it waited for its parents
                published_at=None,
            )
            .returning(Job.id, Job.batch_id)
        ).all()
        for row in rows:
            tally.move(row.batch_id, State.SCHEDULED, State.AVAILABLE)
        freed += [row.id for row in rows]
    return freed


def cancel_children(
    connection: Connection, database: Database, failed: Collection[str], tally: Tally
) -> list[str]:
    """Cancel everything that waits for `failed`, to any depth; return the ids."""

    def cancel(generation: Collection[str]) -> list[str]:
        rows = connection.execute(
            update(Job)
            .where(Job.id.in_(_children(generation)), Job.state == State.SCHEDULED)
            .values(
                state=State.CANCELLED.value,
                finished_at=database.now(),
                error_code=PARENT_FAILED,
                error=PARENT_FAILED_WORDS,
            )
            .returning(Job.id, Job.batch_id)
        ).all()
        for row in rows:
            tally.move(row.batch_id, State.SCHEDULED, State.CANCELLED)
        return [row.id for row in rows]

    return list(_descend(failed, cancel))


def revive_children(connection: Connection, revived: Collection[str], tally: Tally) -> list[str]:
    """Put back to `scheduled` all who were cancelled because of `revived`; return the ids.

    A child that has another failed parent stays cancelled until that one is retried too.
    """
    parent = aliased(Job)
    still_failed = exists().where(
        JobParent.child == Job.id, parent.id == JobParent.parent, parent.state.in_(FAILED)
    )

    def revive(generation: Collection[str]) -> list[str]:
        rows = connection.execute(
            update(Job)
            .where(
                Job.id.in_(_children(generation)),
                Job.state == State.CANCELLED,
                Job.error_code == PARENT_FAILED,
                ~still_failed,
            )
            # The deadline belonged to the first try; it may have passed.
            .values(
                state=State.SCHEDULED.value, finished_at=None, deadline_at=None, error_code=None, error=None
            )
            .returning(Job.id, Job.batch_id)
        ).all()
        for row in rows:
            tally.move(row.batch_id, State.CANCELLED, State.SCHEDULED)
        return [row.id for row in rows]

    back = list(_descend(revived, revive))
    recount_parents(connection, back)
    return back


def _children(parents: Collection[str]) -> Any:
    return select(JobParent.child).where(JobParent.parent.in_(parents))


def _descend(parents: Collection[str], move: Callable[[Collection[str]], list[str]]) -> Iterator[str]:
    """Move the children of `parents`, then the children of those that were moved, and so on."""
    generation = list(parents)
    while generation:
        moved = [child for some in chunks(generation) for child in move(some)]
        yield from moved
        generation = moved


def recount_parents(connection: Connection, children: Collection[str]) -> None:
    """Set `pending_parents` of the children from the parents' states."""
    parent = aliased(Job)
    unfinished = (
        select(func.count())
        .select_from(JobParent)
        .join(parent, parent.id == JobParent.parent)
        .where(JobParent.child == Job.id, parent.state != State.COMPLETED)
        .scalar_subquery()
    )
    for some in chunks(sorted(children)):
        # A parent that is being settled did not see the child waiting: let its commit come first.
        parents = select(JobParent.parent).where(JobParent.child.in_(some))
        running = select(Job.id).where(Job.id.in_(parents), Job.state.not_in(FINAL)).order_by(Job.id)
        connection.execute(running.with_for_update(read=True)).all()
        connection.execute(
            update(Job).where(Job.id.in_(some), Job.state.not_in(FINAL)).values(pending_parents=unfinished)
        )
