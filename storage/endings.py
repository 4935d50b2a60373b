"""How attempts ended, as rows: the job's, which moves on, and the attempt's, which is written once.

SQLite is given the values row by row. PostgreSQL is given all of them as one JSON text in one statement:
each by itself costs the client more than the server, and a worker settles hundreds in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Double,
    Integer,
    Text,
    Update,
    bindparam,
    case,
    cast,
    column,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

from .errors import Unstorable
from .jsontype import Json, to_json
from .lifecycle import State
from .rows import Attempt, Job


class Ending(NamedTuple):
    """What becomes of a job whose attempt ended, and of the attempt; the columns of both."""

    job_id: str
    attempt: int
    state: str
    charged: int
    result: dict[str, Any] | None
    metrics: dict[str, Any] | None
    error_code: str | None
    error: str | None
    available_at: float | None
    finished_at: float | None
    outcome: str
    worker: str | None
    card: str | None
    started_at: float | None
    ended_at: float


_TYPES: dict[str, TypeEngine[Any]] = {
    "job_id": Text(), "attempt": Integer(), "state": Text(), "charged": Integer(), "result": Json(),
    "metrics": Json(), "error_code": Text(), "error": Text(), "available_at": Double(),
    "finished_at": Double(), "outcome": Text(), "worker": Text(), "card": Text(), "started_at": Double(),
    "ended_at": Double(),
}  # fmt: skip
_ATTEMPT = {"job_id": "job_id", "attempt": "attempt", "worker": "worker", "card": "card", "outcome": "outcome",
            "error_code": "error_code", "started_at": "started_at", "finished_at": "ended_at"}  # fmt: skip


def write_endings(connection: Connection, endings: Sequence[Ending]) -> None:
    """Move the jobs that `endings` still hold, and write their attempts.

    Args:
        connection: An open write transaction, which holds the jobs' rows.
        endings: At most one for each job; each of an attempt that holds its job.

    Raises:
        Unstorable: A result or metrics are no JSON. Nothing must be committed.
    """
    rows = [ending._asdict() for ending in endings]
    if connection.dialect.name != "postgresql":
        connection.execute(_APPLY, [{f"b_{name}": value for name, value in row.items()} for row in rows])
        connection.execute(
            insert(Attempt), [{name: row[of] for name, of in _ATTEMPT.items()} for row in rows]
        )
        return
    connection.execute(_APPLY_ALL, {"rows": _as_text(rows)})


def _as_text(rows: Sequence[dict[str, Any]]) -> str:
    try:
        for row in rows:
            for name in ("result", "metrics"):
                row[name] = None if row[name] is None else to_json(row[name])
    except (TypeError, ValueError, RecursionError) as error:
        raise Unstorable(f"the job table cannot keep a result: {error}") from error
    return to_json(rows)


def _apply(of: Callable[[str], ColumnElement[Any]]) -> Update:
    """Move jobs; `of` gives the SQL of a value."""
    return (
        update(Job)
        .where(Job.id == of("job_id"), Job.attempt == of("attempt"), Job.state == State.EXECUTING)
        .values(
            state=of("state"),
            failures=Job.failures + of("charged"),
            result=of("result"),
            metrics=of("metrics"),
            error_code=of("error_code"),
            error=of("error"),
            available_at=of("available_at"),
            finished_at=of("finished_at"),
            progress=case((of("state") == State.COMPLETED.value, 1.0), else_=Job.progress),
            # A job that ran to an end of its own is no suspect; one handed back keeps the mark.
            suspect=case((of("state") == State.AVAILABLE.value, Job.suspect), else_=False),
            alone=False,
            lease_until=None,
            published_at=None,
        )
    )


_APPLY = _apply(lambda name: bindparam(f"b_{name}", type_=_TYPES[name]))

_given = (
    func.json_to_recordset(cast(bindparam("rows", type_=Text()), JSON()))
    .table_valued(*(column(name, type_) for name, type_ in _TYPES.items()), name="given")
    .render_derived(with_types=True)
)
_each = select(_given).cte("each_ending")
_APPLY_ALL = (
    insert(Attempt)
    .from_select(list(_ATTEMPT), select(*(_each.c[of] for of in _ATTEMPT.values())))
    .add_cte(_apply(lambda name: _each.c[name]).cte("applied"))
)
