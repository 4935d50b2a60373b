"""Job tables for tests, made once and not for each of them: making one costs more than most tests.

Fixtures, for `conftest.py` to hand on:

    sqlite_template       a file with the tables and no row, to be copied
    shared_postgres_url   a database of PostgreSQL with the tables, which many tests share in turn
    job_table_url         the test runs twice: with a copy of the file, and with the shared database emptied

A test whose processes may outlive it, or that changes the tables, asks for `database_url` instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from soundmill.storage.database import Database
from soundmill.storage.rows import Base
from soundmill.storage.schema import migrate

from .postgres import PostgresServer


def empty(url: str) -> None:
    """Remove every row, as if nothing had ever been there."""
    database = Database(url)
    with database.write() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
        connection.execute(text("SELECT setval('jobs_seq_seq', 1, false)"))
    database.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    file = tmp_path_factory.mktemp("template") / "jobs.db"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_session: PostgresServer) -> Iterator[str]:
    """A migrated database of PostgreSQL; it holds whatever the test before left."""
    name = postgres_session.create_database()
    _migrate(postgres_session.url(name))
    yield postgres_session.url(name)
    postgres_session.start()  # a test may have stopped it
    postgres_session.drop_database(name)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def job_table_url(request: pytest.FixtureRequest, sqlite_template: Path, tmp_path: Path) -> str:
    """Address of an empty job table: the test runs once with SQLite and once with PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'soundmill.db')}"
    request.getfixturevalue("postgres_server")  # running again, if the test before stopped it
    url = str(request.getfixturevalue("shared_postgres_url"))
    empty(url)
    return url


def _migrate(url: str) -> None:
    database = Database(url)
    migrate(database)
    database.close()
