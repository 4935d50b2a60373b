"""What the tests of the job table share; the builders are in `jobs.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from soundmill.storage.database import Database
from soundmill.storage.schema import migrate


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A job table, once on SQLite and once on PostgreSQL."""
    yield from _opened(database_url)


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """A job table on PostgreSQL, for what only a server with many writers can show."""
    yield from _opened(postgres_url)


@pytest.fixture
def sqlite(tmp_path: object) -> Iterator[Database]:
    """A job table on SQLite."""
    yield from _opened(f"sqlite:///{tmp_path}/jobs.db")


def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    migrate(database)
    yield database
    database.close()
