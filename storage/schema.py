"""The version of the tables: brings a database to the one that this code works with.

Everything that opens a job table does so by itself; `python -m soundmill.storage.schema` does only that.
"""

from __future__ import annotations

import logging
import threading
import time
from importlib import resources

from sqlalchemy import Connection, inspect, text

from .database import Database, is_busy, is_locked
from .errors import NewerSchema, StorageUnavailable
from .migrations import HEAD
from .settings import load_settings

# Any number will do, as long as everybody takes the same: "soundmil" in ASCII.
_ADVISORY_LOCK = int.from_bytes(b"soundmil", "big")

PATIENCE_S = 60.0

# Alembic keeps the migration that runs in module variables.
_ALEMBIC = threading.Lock()


def migrate(database: Database) -> None:
    """Create the tables, or bring them up to date. Costs one small read when nothing is to do.

    Several processes may call it at once: one migrates, the others wait for it. All wait for transactions that
    hold the tables, too, `PATIENCE_S` at most. Each single wait is short, since others queue up behind it.

    Raises:
        NewerSchema: A later soundmill has migrated the database.
        StorageUnavailable: The database did not answer, or stayed locked.
    """
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return _migrate_once(database)
        except StorageUnavailable as error:
            if not (is_locked(error) or is_busy(error)):
                raise
            if time.monotonic() > give_up_at:
                raise StorageUnavailable(
                    f"the job table has to be brought up to date, and somebody held it for {PATIENCE_S:g} s; "
                    "end the transactions that are open on it, or stop the workers, and try again"
                ) from error
            time.sleep(0.1)


def _migrate_once(database: Database) -> None:
    with database.read() as connection:
        if version_of(connection) == HEAD:
            return
    with database.write() as connection:
        if database.dialect == "postgresql":
            # Held until the commit. SQLite has its one write lock already.
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        if version_of(connection) != HEAD:
            run(connection, HEAD)


def run(connection: Connection, revision: str) -> None:
    """Migrate up to `revision`, or down to "base", in the caller's transaction."""
    # Alembic tells every step and every plug-in at INFO, the first of them while it is imported.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command
    from alembic.config import Config

    config = Config()
    with _ALEMBIC, resources.as_file(resources.files(__package__) / "migrations") as folder:
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "newline")
        config.attributes["connection"] = connection
        (command.downgrade if revision == "base" else command.upgrade)(config, revision)


def version_of(connection: Connection) -> str | None:
    """The version of the tables; `None` where there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if version is not None and version > HEAD:  # they are numbered: see `migrations`
        raise NewerSchema(
            f"the job table is of version {version} and this soundmill knows {HEAD} at most; "
            "install the newer soundmill here too, or set database_url to another database"
        )
    return version


def main() -> None:
    """Migrate the job table that the settings name."""
    database = Database(load_settings().database_url)
    try:
        migrate(database)
    finally:
        database.close()


if __name__ == "__main__":
    main()
