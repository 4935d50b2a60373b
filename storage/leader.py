"""Leadership: one row, one lease, the database's clock. Two leaders at once do no harm."""

from __future__ import annotations

from sqlalchemy import Connection, or_, select, update

from .database import Database
from .rows import Leader
from .submission import insert_ignoring

ROLE = "dispatcher"


def lead(connection: Connection, database: Database, *, holder: str, lease_s: float) -> bool:
    """Take or renew the leadership.

    Args:
        connection: An open write transaction.
        database: Its database.
        holder: Who asks.
        lease_s: How long the leadership lasts without another call.

    Returns:
        Whether `holder` leads now.
    """
    now = database.now()
    renewed = connection.execute(
        update(Leader)
        .where(Leader.role == ROLE, or_(Leader.holder == holder, Leader.lease_until < now))
        .values(holder=holder, lease_until=now + lease_s)
    )
    if renewed.rowcount:
        return True
    row = {"role": ROLE, "holder": holder, "lease_until": now + lease_s}
    connection.execute(insert_ignoring(database, Leader).values(row))
    return connection.execute(select(Leader.holder).where(Leader.role == ROLE)).scalar_one() == holder


def resign(connection: Connection, *, holder: str) -> None:
    """Give the leadership back, so that the next one need not wait for the lease."""
    connection.execute(update(Leader).where(Leader.holder == holder).values(lease_until=0.0))
