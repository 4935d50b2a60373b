"""What the tests of the worker share; see `running.py` for the real stack and `bench.py` for its parts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from soundmill.storage.database import Database
from soundmill.storage.schema import migrate

from .running import PLUGINS, Stack

StackMaker = Callable[..., Stack]


@pytest.fixture(autouse=True)
def _drill_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PLUGINS)


@pytest.fixture
def database(job_table_url: str) -> Iterator[Database]:
    """A job table, once on SQLite and once on PostgreSQL."""
    database = Database(job_table_url)
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def sqlite(tmp_path: Path, sqlite_template: Path) -> Iterator[Database]:
    """A job table on SQLite, for what is the same on both; it gives up a lock soon."""
    shutil.copy(sqlite_template, tmp_path / "jobs.db")
    database = Database(f"sqlite:///{tmp_path}/jobs.db", busy_s=0.2)
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def sqlite_stack(tmp_path: Path) -> Iterator[StackMaker]:
    """Makes a stack whose job table is a SQLite file."""
    yield from _maker(tmp_path, f"sqlite:///{tmp_path / 'soundmill.db'}")


@pytest.fixture
def any_stack(tmp_path: Path, database_url: str) -> Iterator[StackMaker]:
    """Makes a stack, once on SQLite and once on PostgreSQL."""
    yield from _maker(tmp_path, database_url)


def _maker(folder: Path, url: str) -> Iterator[StackMaker]:
    with ExitStack() as stacks:

        def make(**settings: Any) -> Stack:
            stack = Stack(folder, url, **settings)
            stacks.callback(stack.close)
            return stack

        yield make


@pytest.fixture
def stack(sqlite_stack: StackMaker) -> Stack:
    """A stack on SQLite, not started yet."""
    return sqlite_stack()
