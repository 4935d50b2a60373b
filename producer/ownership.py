"""Decisions about jobs of one's own tenant; those of others are not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from soundmill.storage import decisions
from soundmill.storage.errors import NotFound

from . import lookup
from .job import grouped

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from soundmill.storage.database import Database

NAMED_AT_ONCE = 10_000
"""So many jobs are named in one statement; SQLite takes 32,766 values."""


def require_own(connection: Connection, tenant: str, ids: Sequence[str]) -> None:
    """Raise `NotFound` for the first job that the tenant does not have."""
    known: set[str] = set()
    for group in grouped(ids, NAMED_AT_ONCE):
        known |= lookup.kinds_of(connection, tenant, group).keys()
    for job_id in ids:
        if job_id not in known:
            raise NotFound(f"there is no job {job_id}; `soundmill jobs list` shows those there are")


def cancel_own(database: Database, tenant: str, ids: Sequence[str]) -> list[str]:
    """Cancel jobs in one transaction; return those that run and whose worker has to be told."""

    def work(connection: Connection) -> list[decisions.Cancellation]:
        require_own(connection, tenant, ids)
        return [decisions.cancel(connection, database, group) for group in grouped(ids, NAMED_AT_ONCE)]

    done = database.retrying(work)
    return [job_id for cancellation in done for job_id, _ in cancellation.stopping]


def retry_own(database: Database, tenant: str, ids: Sequence[str]) -> list[str]:
    """Bring jobs back in one transaction; return those that may run now."""

    def work(connection: Connection) -> list[list[str]]:
        require_own(connection, tenant, ids)
        return [decisions.retry(connection, database, group) for group in grouped(ids, NAMED_AT_ONCE)]

    return [job_id for freed in database.retrying(work) for job_id in freed]
