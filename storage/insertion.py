"""Many rows of the job table at once.

SQLAlchemy's own way handles every value of every row by itself, which costs more than the insert.
So here the driver is given the rows as they are: SQLite a list of tuples, PostgreSQL one JSON text,
which any of its drivers can carry and which needs no second question for what was inserted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, TextClause, bindparam, select, text

from .database import Database, chunks
from .jsontype import plain_to_json
from .rows import Job

NEW_JOB = (
    "id", "tenant", "batch_id", "custom_id", "kind", "model", "model_revision", "args", "args_version",
    "args_digest", "state", "priority", "max_failures", "pending_parents", "submitted_at", "scheduled_at",
    "available_at", "deadline_at", "finished_at", "error_code", "error", "idempotency_key",
)  # fmt: skip
"""The columns that a row is inserted with; what else has a default gets that."""

_COLUMNS = Job.__table__.columns
_DEFAULTS = {
    column.name: str(column.default.arg).lower()  # 0 or false, to both databases
    for column in _COLUMNS
    if column.default is not None and column.name not in NEW_JOB
}
_TARGET = f"jobs ({', '.join((*NEW_JOB, *_DEFAULTS))})"

# Serves both: a key that is known, and one that another transaction commits while this one waits for it.
_IGNORING_KNOWN_KEYS = "ON CONFLICT (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING"


def insert_jobs(
    connection: Connection, database: Database, rows: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
    """Insert rows whose idempotency key is new, and skip the others.

    Args:
        connection: An open write transaction, which may be the caller's own.
        database: The database of the connection.
        rows: Each with the columns of `NEW_JOB`, in that order; `args` is JSON text.

    Returns:
        The `seq` of each inserted row by its id; they ascend in the order of the rows.
    """
    insert = _insert_postgresql if database.dialect == "postgresql" else _insert_sqlite
    places: dict[str, int] = {}
    for some in chunks(rows):
        places |= insert(connection, some)
    return places


def _insert_sqlite(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    values = [tuple(row.values()) for row in rows]
    done = connection.exec_driver_sql(
        _sqlite_statement(), values, execution_options={"preserve_rowcount": True}
    )
    ids = [row["id"] for row in rows]
    if done.rowcount < len(ids):
        return {row.id: row.seq for row in connection.execute(_PLACES, {"ids": ids})}
    # Nobody else writes meanwhile, and AUTOINCREMENT counts up by one.
    first = connection.execute(_PLACE, {"id": ids[0]}).scalar_one()
    return dict(zip(ids, range(first, first + len(ids)), strict=True))


def _insert_postgresql(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    values = dict(zip(NEW_JOB, zip(*(row.values() for row in rows), strict=True), strict=True))
    # Most rows of a stream differ in little: what they share is said, read and cast only once.
    own = tuple(name for name in NEW_JOB if name == "id" or values[name].count(values[name][0]) < len(rows))
    shared = {name: values[name][0] for name in NEW_JOB if name not in own}
    given = [dict(zip(own, some, strict=True)) for some in zip(*(values[name] for name in own), strict=True)]
    keyed = shared.get("idempotency_key", "") is not None
    inserted = connection.execute(
        _postgresql_statement(own, keyed=keyed), {"rows": plain_to_json(given), **shared}
    )
    return {row.id: row.seq for row in inserted}


_PLACE = select(Job.seq).where(Job.id == bindparam("id"))
_PLACES = select(Job.id, Job.seq).where(Job.id.in_(bindparam("ids", expanding=True)))


@cache
def _sqlite_statement() -> str:
    values = ", ".join((*"?" * len(NEW_JOB), *_DEFAULTS.values()))
    return f"INSERT INTO {_TARGET} VALUES ({values}) {_IGNORING_KNOWN_KEYS}"


@lru_cache(maxsize=64)
def _postgresql_statement(own: tuple[str, ...], *, keyed: bool) -> TextClause:
    """Insert what `:rows` holds, a JSON text with the columns `own`; the others are bound by their names."""
    numbers = {int: "bigint", float: "double precision"}
    types = {name: numbers.get(_COLUMNS[name].type.python_type, "text") for name in NEW_JOB}
    fields = ", ".join(f"{name} {types[name]}" for name in own)
    values = [name if name in own else f"CAST(:{name} AS {types[name]})" for name in NEW_JOB]
    return text(
        f"INSERT INTO {_TARGET} SELECT {', '.join((*values, *_DEFAULTS.values()))} "
        f"FROM ROWS FROM (json_to_recordset(CAST(:rows AS json)) AS ({fields})) "
        f"WITH ORDINALITY AS given ({', '.join(own)}, place) ORDER BY place "
        # PostgreSQL inserts twice as carefully where a conflict may be ignored.
        f"{_IGNORING_KNOWN_KEYS if keyed else ''} RETURNING id, seq"
    )
