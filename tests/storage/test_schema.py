"""The migrations: what they make is what the code expects, on both databases."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from soundmill.storage import migrations, schema
from soundmill.storage.database import Database
from soundmill.storage.errors import NewerSchema
from soundmill.storage.rows import Base
from soundmill.storage.schema import migrate, run

from .jobs import Background, states, submit_many

INDEXES = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type = 'index'",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}


def indexes_of(database: Database) -> dict[str, str]:
    with database.read() as connection:
        rows = connection.execute(text(INDEXES[database.dialect]))
        return {name: re.sub(r"\s+", " ", sql) for name, sql in rows if not name.startswith("alembic")}


def tables_of(database: Database) -> set[str]:
    with database.read() as connection:
        return set(inspect(connection).get_table_names())


def test_the_migrated_tables_are_those_of_the_code(fresh_database: Database) -> None:
    with fresh_database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_migrated_indexes_are_those_of_the_code_with_their_conditions(fresh_database: Database) -> None:
    migrated = indexes_of(fresh_database)
    with fresh_database.write() as connection:
        run(connection, "base")
    Base.metadata.create_all(fresh_database.engine)

    assert "published_at IS NULL" in migrated["ix_jobs_unpublished"]
    assert indexes_of(fresh_database) == migrated


def test_downgrading_to_the_base_leaves_nothing(fresh_database: Database) -> None:
    with fresh_database.write() as connection:
        run(connection, "base")

    assert tables_of(fresh_database) <= {"alembic_version"}


def test_migrating_again_does_nothing_and_is_quick(fresh_database: Database) -> None:
    took_s = []
    for _ in range(5):
        begin = time.perf_counter()
        migrate(fresh_database)
        took_s.append(time.perf_counter() - begin)

    assert min(took_s) < 0.01


def test_threads_that_migrate_at_once_do_not_disturb_each_other(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(6)]
    attempts = [Background(partial(migrate, database)) for database in databases]
    for attempt in attempts:
        attempt.result()

    assert "jobs" in tables_of(databases[0])
    for database in databases:
        database.close()


def test_processes_that_migrate_at_once_do_not_disturb_each_other(database_url: str) -> None:
    code = (
        "import sys; from soundmill.storage.database import Database; "
        "from soundmill.storage.schema import migrate; migrate(Database(sys.argv[1]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, database_url], stderr=subprocess.PIPE) for _ in range(3)
    ]
    for process in processes:
        _, words = process.communicate(timeout=60)
        assert process.returncode == 0, words.decode()


def test_a_database_of_a_later_version_is_refused_in_a_sentence(fresh_database: Database) -> None:
    with fresh_database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(NewerSchema, match=r"version 9999 .* knows 0003 at most; install the newer soundmill"):
        migrate(fresh_database)


def test_a_migration_that_fails_leaves_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_and_fail(connection: Connection, revision: str) -> None:
        run(connection, revision)
        raise RuntimeError("the power went")

    database = Database(database_url)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "run", run_and_fail)
        with pytest.raises(RuntimeError):
            migrate(database)

    assert tables_of(database) == set()
    migrate(database)
    database.close()


def test_alembic_says_nothing_of_a_migration(
    database_url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    database = Database(database_url)
    with caplog.at_level(logging.INFO):
        migrate(database)
    database.close()

    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_the_version_of_the_code_is_the_last_script() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "newline")

    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


def test_a_job_table_of_the_first_version_keeps_its_rows(database_url: str) -> None:
    database = Database(database_url)
    with database.write() as connection:
        run(connection, "0001")
    ids = submit_many(database, 3)
    migrate(database)

    assert states(database, ids) == ["available"] * 3
    # Numbers are never given twice, even where the last job is gone.
    with database.write() as connection:
        connection.execute(text("DELETE FROM jobs WHERE seq = (SELECT max(seq) FROM jobs)"))
    [last] = submit_many(database, 1)
    with database.read() as connection:
        assert connection.execute(text("SELECT seq FROM jobs WHERE id = :id"), {"id": last}).scalar() == 4
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.close()
