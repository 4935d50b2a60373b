"""What the tests of the job table share; the builders are in `jobs.py`.

Making a database costs more than most tests. So on PostgreSQL they share one, which is emptied in
between, and on SQLite each gets a copy of a file. `fresh_database` is for those that change the tables.
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

from ..postgres import PostgresServer


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "jobs.db"
    database = Database(f"sqlite:///{file}")
    migrate(database)
    database.close()
    return file


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_session: PostgresServer) -> Iterator[str]:
    name = postgres_session.create_database()
    database = Database(postgres_session.url(name))
    migrate(database)
    database.close()
    yield postgres_session.url(name)
    postgres_session.drop_database(name)


@pytest.fixture
def sqlite(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """A job table on SQLite."""
    shutil.copy(sqlite_template, tmp_path / "jobs.db")
    yield from _opened(f"sqlite:///{tmp_path / 'jobs.db'}")


@pytest.fixture
def postgres(shared_postgres_url: str, postgres_server: PostgresServer) -> Iterator[Database]:
    """A job table on PostgreSQL, for what only a server with many writers can show."""
    for database in _opened(shared_postgres_url):
        with database.write() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
            connection.execute(text("SELECT setval('jobs_seq_seq', 1, false)"))
        yield database


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> Database:
    """A job table: the test runs once on SQLite and once on PostgreSQL."""
    found: Database = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def fresh_database(database_url: str) -> Iterator[Database]:
    """A job table that nobody used before or will use afterwards, on SQLite and on PostgreSQL."""
    yield from _opened(database_url)


def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    migrate(database)
    yield database
    database.close()
