"""What the tests of the job table share; the builders are in `jobs.py`, and `job_table.py` makes the tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from soundmill.storage.database import Database
from soundmill.storage.schema import migrate

from ..job_table import empty
from ..postgres import PostgresServer


@pytest.fixture
def sqlite(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """A job table on SQLite."""
    shutil.copy(sqlite_template, tmp_path / "jobs.db")
    yield from _opened(f"sqlite:///{tmp_path / 'jobs.db'}")


@pytest.fixture
def postgres(shared_postgres_url: str, postgres_server: PostgresServer) -> Iterator[Database]:
    """A job table on PostgreSQL, for what only a server with many writers can show."""
    empty(shared_postgres_url)
    yield from _opened(shared_postgres_url)


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
