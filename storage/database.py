"""The connection to the job table: SQLite or PostgreSQL, short transactions, one clock.

SQLite is used by one host, in WAL mode with full synchronisation; every write begins IMMEDIATE, so
that a transaction waits for the lock at its start and never fails half-way with a stale snapshot.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, literal, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql.elements import ColumnElement

from .errors import SettingsError, StorageError, StorageFull, StorageUnavailable, Unstorable
from .rows import Base
from .settings import masked

T = TypeVar("T")

BUSY_S = 5.0
STALLED_S = 30.0
FRESH_S = 0.5
"""For so long after its last use a connection to PostgreSQL is taken to be alive."""
CHUNK = 500

# SQLite's locks do not hold over these (sqlite.org/wal.html, "All processes … same host").
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "ceph", "lustre", "glusterfs", "fuse.glusterfs",
     "afs", "beegfs", "gpfs", "fuse.s3fs", "fuse.rclone"}
)  # fmt: skip

RETRIED_SQLSTATES = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_DISK_FULL = "53100"
_LOCK_NOT_AVAILABLE = "55P03"

_TIME = Base.type_annotation_map[float]

# A subquery is evaluated once. The bare function is volatile: it would be called for every row, and a
# condition on it could not use an index.
SERVER_TIME = select(func.extract("epoch", func.clock_timestamp()).cast(_TIME)).scalar_subquery()
"""PostgreSQL's clock, as SQL."""

_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


def read_url(url: str) -> URL:
    """Take the address of a job table apart.

    Raises:
        SettingsError: It is none.
    """
    try:
        found = make_url(url)
        if "@" in (found.host or ""):
            raise ValueError("a part of the password is taken for the host")
        return found
    except (ArgumentError, ValueError):
        # `from None`: what the library says may quote a password that it took for something else.
        raise SettingsError(
            f"database_url = {masked(url)} cannot be read; write sqlite:///PATH or "
            "postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME, with a percent-encoded password"
        ) from None


class Database:
    """One engine on the job table of `url`.

    It is safe between threads. After a fork the child's pool starts empty: a SQLite connection
    must not cross one.
    """

    def __init__(self, url: str, *, busy_s: float = BUSY_S) -> None:
        """Connect lazily to `url`.

        Args:
            url: `sqlite:///path` or `postgresql+psycopg://…`.
            busy_s: How long a transaction waits for another one's lock.

        Raises:
            SettingsError: The URL names no such database, or SQLite on a network file system.
        """
        self.url = read_url(url)
        self.dialect = self.url.get_backend_name()
        if self.dialect == "sqlite":
            self.engine = _sqlite_engine(self.url.database, busy_s)
        elif self.dialect == "postgresql":
            self.engine = _postgresql_engine(url, busy_s)
        else:
            raise SettingsError(
                f"database_url names {self.dialect!r}; use sqlite:///PATH or postgresql+psycopg://HOST/NAME"
            )
        _OPEN.add(self)

    @contextmanager
    def write(self, *, patience_s: float | None = None) -> Iterator[Connection]:
        """A transaction that may write; committed at the end, rolled back by an exception.

        Args:
            patience_s: How long each statement waits for rows that others have locked, on PostgreSQL, if
                not as long as usual.

        Raises:
            StorageUnavailable: The database did not answer, or stayed locked.
        """
        with _translated(), self.engine.begin() as connection:
            if patience_s is not None and self.dialect == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(round(patience_s * 1000), 1)}")
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A short transaction that only reads; it never waits for a writer."""
        with _translated(), self.engine.connect() as connection:
            connection.execution_options(soundmill_read=True)
            yield connection

    def retrying(self, work: Callable[[Connection], T], *, tries: int = 4) -> T:
        """Do `work` in a write transaction, and again where PostgreSQL broke a deadlock with it.

        Raises:
            StorageUnavailable: The database did not answer, stayed locked, or every try met a deadlock.
        """
        for left in reversed(range(tries)):
            try:
                with self.write() as connection:
                    return work(connection)
            except StorageUnavailable as error:
                if not left or sqlstate(error.__cause__) not in RETRIED_SQLSTATES:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def now(self) -> ColumnElement[float]:
        """The clock that every time in the tables is taken from, as SQL.

        PostgreSQL's own, since its clients are many hosts; the host's on SQLite, which has one.
        """
        if self.dialect == "postgresql":
            return SERVER_TIME
        return literal(time.time(), _TIME)

    def time(self, connection: Connection) -> float:
        """What `now` reads at this moment."""
        if self.dialect == "sqlite":
            return time.time()
        return float(connection.execute(select(self.now())).scalar_one())

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut what may be long into lists that one statement can hold as bound values."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def _forget_connections() -> None:
    for database in list(_OPEN):
        database.engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


def _sqlite_engine(database: str | None, busy_s: float) -> Engine:
    if not database or database == ":memory:":
        raise SettingsError("database_url must name a file: an in-memory SQLite cannot be shared by workers")
    path = Path(database).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_network_file_system(path.parent)
    engine = create_engine(
        URL.create("sqlite", database=str(path)),  # a path may hold what a URL gives a meaning to
        connect_args={"timeout": busy_s, "check_same_thread": False},
        pool_size=8,
        hide_parameters=True,  # an error's text ends up in logs; a parameter may be the user's words
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        # Python's own transaction handling would begin late and deferred; ours is the listener below.
        connection.isolation_level = None
        _enter_wal_mode(connection, busy_s)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("soundmill_read", False):
            connection.exec_driver_sql("BEGIN")
        else:
            _begin_writing(connection, busy_s)

    return engine


def _begin_writing(connection: Connection, busy_s: float) -> None:
    # SQLite's own waits grow to a tenth of a second, in which others come and go: a submit beside a
    # busy worker would wait for several of its turns.
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        _persist(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"), busy_s, 0.001)
    finally:
        raw.execute(f"PRAGMA busy_timeout = {int(busy_s * 1000)}")


def _enter_wal_mode(connection: sqlite3.Connection, busy_s: float) -> None:
    # Of two that open a new file at the same moment one is refused at once, whatever its timeout.
    _persist(lambda: connection.execute("PRAGMA journal_mode = WAL"), busy_s, 0.01)


def _persist(action: Callable[[], object], for_s: float, pause_s: float) -> None:
    """Try again while the file is locked."""
    give_up_at = time.monotonic() + for_s
    while True:
        try:
            action()
        except (sqlite3.OperationalError, OperationalError) as error:
            code = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) & 0xFF
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(pause_s)
        else:
            return


def _postgresql_engine(url: str, busy_s: float) -> Engine:
    try:
        engine = create_engine(
            url,
            pool_size=8,
            hide_parameters=True,
            connect_args={
                "connect_timeout": 5,
                "application_name": f"soundmill@{socket.gethostname()}",
                # A cut connection is noticed within about half a minute instead of two hours.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
            },
        )
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"database_url needs a driver that is not installed ({error.name}); "
            "run: pip install 'soundmill[postgres]' and write postgresql+psycopg://…"
        ) from error

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        connection.execute(f"SET lock_timeout = {round(busy_s * 1000)}")
        # A process that was stopped half-way through a transaction must not hold its rows for ever.
        connection.execute(f"SET idle_in_transaction_session_timeout = {round(STALLED_S * 1000)}")
        connection.autocommit = False

    _check_idle_connections(engine)
    return engine


def _check_idle_connections(engine: Engine) -> None:
    """Try a connection that was not used for a moment before it is handed out.

    SQLAlchemy's own `pool_pre_ping` asks the server before every transaction, which costs a busy worker
    a tenth of its time. One that dies between two uses in a row fails as it would within the second.
    """

    @event.listens_for(engine, "checkin")
    def _note(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _check(connection: Any, record: Any, _proxy: Any) -> None:
        used_at = record.info.get("used_at")
        if used_at is None or time.monotonic() - used_at < FRESH_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            if not engine.dialect.is_disconnect(error, connection, None):
                raise
            raise InvalidatePoolError from error  # the pool opens others


@contextmanager
def _translated() -> Iterator[None]:
    """Let the database's own words become ours, at this one edge."""
    try:
        yield
    except PoolTimeout as error:
        raise StorageUnavailable(f"the job table has no connection free: {_words(error)}") from error
    except StatementError as error:
        ours = _ours(error)
        if ours is None:
            raise
        raise ours from error
    except UnicodeEncodeError as error:
        raise Unstorable("the job table cannot keep a text with half a surrogate pair") from error


def _ours(error: StatementError) -> StorageError | None:
    """What the error means, or `None` where the statement is wrong: a bug, and to be seen as one."""
    state, code = sqlstate(error), getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if state == _DISK_FULL or code == sqlite3.SQLITE_FULL:
        return StorageFull(f"no space is left for the job table: {_words(error)}")
    if isinstance(error, DataError) or isinstance(error.orig, (ValueError, TypeError)):
        return Unstorable(f"the job table cannot keep a value: {_words(error)}")
    if isinstance(error, (OperationalError, InterfaceError)) and code != sqlite3.SQLITE_ERROR:
        return StorageUnavailable(f"the job table did not answer: {_words(error)}")
    if state in RETRIED_SQLSTATES or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return StorageUnavailable(f"the job table lost the connection: {_words(error)}")
    return None


def sqlstate(error: BaseException | None) -> str | None:
    """The five-character code of a PostgreSQL error, or `None`."""
    code: str | None = getattr(getattr(error, "orig", None), "sqlstate", None)
    return code


def is_locked(error: StorageUnavailable) -> bool:
    """Whether only some rows of PostgreSQL were not to be had: another transaction holds them."""
    return sqlstate(error.__cause__) == _LOCK_NOT_AVAILABLE


def is_busy(error: StorageUnavailable) -> bool:
    """Whether somebody else was writing to SQLite all the time."""
    code = getattr(getattr(error.__cause__, "orig", None), "sqlite_errorcode", 0) & 0xFF
    return bool(code == sqlite3.SQLITE_BUSY)


def _words(error: Exception) -> str:
    # The first line of the database's own text. More may follow: the statement, or a row's values.
    original = getattr(error, "orig", None) or error
    return (str(original).splitlines() or [type(original).__name__])[0]


def refuse_network_file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Raise `SettingsError` where SQLite's locks would not hold.

    Args:
        folder: Where the database file is to lie.
        mounts: The kernel's table of mounts; a system without it is let pass.
    """
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return
    resolved, best, kind = str(folder.resolve()), "", ""
    for line in lines:
        _, point, fs_type, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fs_type
    if kind in NETWORK_FILE_SYSTEMS:
        raise SettingsError(
            f"{folder} lies on a network file system ({kind}), where SQLite can corrupt its file; "
            "put state_dir on a local disk or set database_url to a PostgreSQL server"
        )
