"""What `soundmill doctor` says of the job table, and of the jobs in it.

Whether it answers, is of this version, takes writes, and agrees with us what time it is. Nothing is changed: a
table that is not there yet stays so.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, false, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from soundmill.storage.database import Database, read_url
from soundmill.storage.errors import NewerSchema, SettingsError, StorageError
from soundmill.storage.listing import workers
from soundmill.storage.migrations import HEAD
from soundmill.storage.rows import Leader
from soundmill.storage.schema import version_of
from soundmill.storage.settings import Settings, masked

from .finding import Finding
from .queue_findings import queue_findings

SKEW_S = 2.0
WAITS_S = 10.0
CROWDED_SHARE = 0.9

# What a database says, and what to do about it; the first that fits.
_REMEDIES = (
    (("locked",), "another process keeps it locked: end it (a backup, a database shell, a stopped worker)"),
    (("password", "authentication", "role "), "put the right user and password into database_url"),
    (("does not exist", "unable to open"), "create it, or name another in database_url"),
    (("readonly", "read-only", "permission", "denied"), "let this user write there"),
    (("lock timeout",), "another transaction holds a lock for long: see pg_stat_activity, and end it"),
    (("no space", "full"), "free some space"),
)
_OTHERWISE = "start the server, open its port, or name another in database_url"


class _Undo(Exception):
    """Nothing that was tried is kept."""


def database_findings(settings: Settings) -> Iterator[Finding]:
    """Look at the job table."""
    database: Database | None = None
    try:
        missing = _missing_file(settings.database_url)
        if missing is not None:
            yield missing
            return
        database = Database(settings.database_url)
        yield from _look(database, settings)
    except (SettingsError, NewerSchema) as error:
        yield _broken(str(error))
    except StorageError as error:
        yield _broken(f"{error}; {remedy_of(str(error))}")
    except (SQLAlchemyError, OSError) as error:
        words = str(getattr(error, "orig", None) or error).splitlines()[0]
        yield _broken(f"{masked(settings.database_url)} is no job table of ours, or is damaged ({words}); "
                      "restore it from a backup, or move it away")  # fmt: skip
    finally:
        if database is not None:
            database.close()


def remedy_of(words: str) -> str:
    """What to do about what a database said."""
    said = words.lower()
    return next((remedy for signs, remedy in _REMEDIES if any(sign in said for sign in signs)), _OTHERWISE)


def _broken(detail: str) -> Finding:
    return Finding(what="database", verdict="broken", detail=detail)


def _missing_file(url: str) -> Finding | None:
    """What is to be said where there is no file of SQLite yet; connecting would make one."""
    parts = read_url(url)
    if parts.get_backend_name() != "sqlite" or not parts.database or Path(parts.database).exists():
        return None
    folder = next(parent for parent in Path(parts.database).absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        return _broken(f"{parts.database} is not there, and {folder} cannot be written to; {_REMEDIES[3][1]}")
    detail = f"{masked(url)} is not there yet; what needs it first makes it"
    return Finding(what="database", verdict="ok", detail=detail)


def _look(database: Database, settings: Settings) -> Iterator[Finding]:
    url = masked(settings.database_url)
    with database.read() as connection:
        version = version_of(connection)
        live = (
            [worker.name for worker in workers(connection, database) if worker.live]
            if version == HEAD
            else []
        )
    if version is None:
        yield Finding(
            what="database", verdict="ok", detail=f"{url} has no tables yet; what needs them first makes them"
        )
        return
    if version != HEAD:
        yield Finding(
            what="database",
            verdict="warning",
            detail=f"{url} is of version {version}, and this soundmill works with {HEAD}: stop what runs with the "
            "older one; the first start of this one brings it there",
        )
        return
    _try_to_write(database)
    yield Finding(what="database", verdict="ok", detail=f"{url}; live workers: {', '.join(live) or 'none'}")
    if database.dialect == "postgresql":
        with database.read() as connection:
            yield from _of_postgresql(connection, database)
    yield from queue_findings(database, settings)


def _try_to_write(database: Database) -> None:
    """Take the lock that every write takes, and the right to change a row; change none."""
    with contextlib.suppress(_Undo), database.write() as connection:
        connection.execute(update(Leader).where(false()).values(holder=""))
        raise _Undo


def _of_postgresql(connection: Connection, database: Database) -> Iterator[Finding]:
    yield _clock(connection, database)
    waiting = connection.execute(
        text(
            "SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0) "
            "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    ).one()
    if waiting[1] > WAITS_S:
        yield Finding(
            what="database locks",
            verdict="warning",
            detail=f"{waiting[0]} statement(s) wait for a lock, one for {waiting[1]:.0f} s; end the transaction that "
            "holds it: SELECT pid, pg_blocking_pids(pid), query FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
        )
    used, most = connection.execute(
        text("SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity")
    ).one()
    if used > CROWDED_SHARE * most:
        detail = f"{used} of {most} connections are taken; raise max_connections, or run fewer producers"
        yield Finding(what="database connections", verdict="warning", detail=detail)


def _clock(connection: Connection, database: Database) -> Finding:
    """Whether the server's clock is ours; half of what its answer took is not held against it."""
    before = time.time()
    theirs = float(connection.execute(select(database.now())).scalar_one())
    after = time.time()
    skew_s = theirs - (before + after) / 2
    if abs(skew_s) - (after - before) / 2 <= SKEW_S:
        return Finding(what="clock", verdict="ok", detail=f"{abs(skew_s):.2f} s from the database's")
    return Finding(
        what="clock",
        verdict="warning",
        detail=f"this host's clock is {abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} the database's, "
        "which counts for jobs; run a time service (chrony, systemd-timesyncd) on both",
    )
