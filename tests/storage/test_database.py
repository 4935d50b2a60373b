"""The connection to the job table: transactions, the clock, and foreign errors in our words."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import OperationalError, ProgrammingError

from soundmill.storage import database as database_module
from soundmill.storage.database import Database, chunks, refuse_network_file_system
from soundmill.storage.errors import SettingsError, StorageFull, StorageUnavailable, Unstorable
from soundmill.storage.rows import Queue
from soundmill.storage.schema import migrate

from .jobs import Background, see, submit, submit_many


def put(connection: Connection, model: str, changed_at: float = 1.0) -> None:
    connection.execute(insert(Queue).values(model=model, paused=False, changed_at=changed_at))


def models(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.execute(select(Queue.model)).scalars())


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    def write_and_fail(connection: Connection) -> None:
        put(connection, "lost")
        raise RuntimeError("half-way")

    with database.write() as connection:
        put(connection, "kept")
    with pytest.raises(RuntimeError), database.write() as connection:
        write_and_fail(connection)

    assert models(database) == ["kept"]


def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    with database.write() as connection:
        put(connection, "unseen")
        assert Background(lambda: models(database)).result() == []


def test_the_clock_is_a_float_of_seconds_since_1970(database: Database) -> None:
    with database.write() as connection:
        now = database.time(connection)
        connection.execute(insert(Queue).values(model="m", paused=False, changed_at=database.now()))
        stored = connection.execute(select(Queue.changed_at)).scalar_one()

    assert type(now) is type(stored) is float
    assert now == pytest.approx(time.time(), abs=5)
    assert stored == pytest.approx(now, abs=1)


def test_times_come_from_the_clock_of_postgresql(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    really = time.time()
    monkeypatch.setattr(time, "time", lambda: 5.0)

    assert see(postgres, submit(postgres)).submitted_at == pytest.approx(really, abs=30)
    with postgres.write() as connection:
        assert postgres.time(connection) == pytest.approx(really, abs=30)


def test_the_clock_of_postgresql_goes_on_within_a_transaction(postgres: Database) -> None:
    with postgres.write() as connection:
        before = postgres.time(connection)
        connection.execute(text("SELECT pg_sleep(0.05)"))
        assert postgres.time(connection) - before >= 0.05


# --- locks


def test_a_busy_sqlite_is_unavailable_after_a_while_and_well_again_afterwards(
    sqlite: Database, tmp_path: Path
) -> None:
    impatient = Database(f"sqlite:///{tmp_path}/jobs.db", busy_s=0.2)
    with sqlite.write() as connection:
        put(connection, "first")
        begin = time.monotonic()
        with pytest.raises(StorageUnavailable, match="did not answer: database is locked"), impatient.write():
            pass
        assert 0.15 < time.monotonic() - begin < 2
        assert models(impatient) == []
    with impatient.write() as connection:
        put(connection, "second")

    assert models(sqlite) == ["first", "second"]
    impatient.close()


def test_a_locked_row_of_postgresql_is_unavailable_after_a_while(
    postgres: Database, shared_postgres_url: str
) -> None:
    impatient = Database(shared_postgres_url, busy_s=0.2)
    with postgres.write() as connection:
        put(connection, "m")
    with postgres.write() as connection:
        connection.execute(update(Queue).values(paused=True))
        with pytest.raises(StorageUnavailable, match="lock timeout"), impatient.write() as other:
            other.execute(update(Queue).values(paused=True))
    impatient.close()


def test_a_deadlock_is_broken_and_the_work_done_again(postgres: Database) -> None:
    with postgres.write() as connection:
        put(connection, "a")
        put(connection, "b")
    tries: list[str] = []

    def touch(first: str, second: str) -> None:
        def work(connection: Connection) -> None:
            tries.append(first)
            for model in (first, second):
                connection.execute(update(Queue).where(Queue.model == model).values(paused=True))
                connection.execute(text("SELECT pg_sleep(0.2)"))

        postgres.retrying(work)

    threads = [Background(lambda: touch("a", "b")), Background(lambda: touch("b", "a"))]
    for thread in threads:
        thread.result()
    assert len(tries) == 3


def test_a_deadlock_without_a_retry_is_unavailable(postgres: Database) -> None:
    with pytest.raises(StorageUnavailable), postgres.write() as connection:
        connection.execute(text("DO $$ BEGIN RAISE 'lost' USING ERRCODE = '40P01'; END $$"))


def test_retrying_gives_up_at_last(postgres: Database) -> None:
    tries: list[int] = []

    def fail(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("DO $$ BEGIN RAISE 'lost' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(StorageUnavailable):
        postgres.retrying(fail, tries=3)
    assert len(tries) == 3


# --- what goes wrong


def test_a_server_that_is_gone_is_unavailable_and_well_again_when_it_is_back(
    postgres: Database, postgres_server: object
) -> None:
    postgres_server.stop("immediate")  # type: ignore[attr-defined]
    with pytest.raises(StorageUnavailable, match="the job table did not answer"):
        models(postgres)
    postgres_server.start()  # type: ignore[attr-defined]

    assert models(postgres) == []


def test_a_connection_that_is_cut_half_way_is_unavailable(postgres: Database) -> None:
    def cut(connection: Connection) -> None:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with postgres.write() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        put(connection, "m")

    with pytest.raises(StorageUnavailable), postgres.write() as connection:
        cut(connection)

    assert models(postgres) == []


def test_a_connection_that_died_while_nobody_used_it_is_replaced(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "FRESH_S", 0.0)
    with postgres.read() as connection:
        first = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    other = Database(postgres.url.render_as_string(hide_password=False))
    with other.write() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
    other.close()
    with postgres.write() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != first


def test_a_connection_in_constant_use_is_not_asked_each_time_whether_it_lives(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def note(connection: object) -> bool:
        asked.append(1)
        return True

    monkeypatch.setattr(postgres.engine.dialect, "do_ping", note)
    monkeypatch.setattr(database_module, "FRESH_S", 60.0)
    for _ in range(5):
        assert models(postgres) == []
    assert asked == []
    monkeypatch.setattr(database_module, "FRESH_S", 0.0)
    assert models(postgres) == []
    assert asked == [1]


def test_a_mistake_of_ours_is_not_taken_for_a_database_that_is_away(database: Database) -> None:
    with pytest.raises(Exception, match="nowhere") as caught, database.read() as connection:
        connection.execute(text("SELECT * FROM nowhere"))

    assert not isinstance(caught.value, StorageUnavailable)


def test_a_full_disk_is_told_apart(sqlite: Database) -> None:
    def write_too_much(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        for number in range(5_000):
            put(connection, f"{number:060}")

    with pytest.raises(StorageFull, match="no space is left"), sqlite.write() as connection:
        write_too_much(connection)


def test_an_error_never_holds_the_values_of_the_statement(database: Database) -> None:
    with pytest.raises(ProgrammingError if database.dialect == "postgresql" else OperationalError) as caught:
        with database.write() as connection:
            connection.execute(text("SELECT :words FROM nowhere"), {"words": "a secret"})

    assert "parameters hidden" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_half_a_character_is_refused(database: Database) -> None:
    with pytest.raises(Unstorable, match="half a surrogate pair"), database.write() as connection:
        put(connection, "\ud800")


# --- SQLite


def test_sqlite_syncs_every_commit_and_checks_references(sqlite: Database) -> None:
    with sqlite.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_threads_write_one_after_the_other_and_none_fails(database: Database) -> None:
    threads = [Background(lambda: [submit(database) for _ in range(10)]) for _ in range(6)]

    assert len({id_ for thread in threads for id_ in thread.result()}) == 60


def test_a_forked_child_opens_connections_of_its_own(database: Database) -> None:
    submit(database)
    child = os.fork()
    if child == 0:
        try:
            submit_many(database, 3)
        except BaseException:  # noqa: BLE001 - whatever it was, this is not the process to report it
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 20
    pid, status = 0, 0
    while not pid and time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not pid:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (pid, status) == (child, 0)
    assert see(database, submit(database)).seq == 5


def test_a_path_may_hold_what_a_url_gives_a_meaning_to(tmp_path: Path) -> None:
    folder = tmp_path / "100%41 #1?"
    database = Database("sqlite:///" + str(folder / "jobs.db").replace("%", "%25").replace("?", "%3F"))
    migrate(database)
    database.close()

    found = list(tmp_path.rglob("jobs.db"))
    assert len(found) == 1
    sqlite3.connect(found[0]).close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="must name a file"):
        Database(url)


def test_another_database_system_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"names 'mysql'; use sqlite:///PATH or postgresql\+psycopg"):
        Database("mysql://host/name")


@pytest.mark.parametrize(
    ("mounts", "refused"),
    [
        ("disk / ext4 rw 0 0\nserver:/x {} nfs4 rw 0 0\n", True),
        ("disk / nfs rw 0 0\nlocal {} xfs rw 0 0\n", False),
        ("disk / ext4 rw 0 0\nserver:/x {}-other nfs4 rw 0 0\n", False),
        ("disk / ext4 rw 0 0\na {0} ext4 rw 0 0\nb {0} cifs rw 0 0\n", True),
    ],
)
def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path, mounts: str, refused: bool) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    table = tmp_path / "mounts"
    table.write_text(mounts.format(str(folder).replace(" ", "\\040")))
    if refused:
        with pytest.raises(SettingsError, match="network file system"):
            refuse_network_file_system(folder / "deeper", table)
    else:
        refuse_network_file_system(folder / "deeper", table)


def test_chunks_hold_everything_once() -> None:
    assert [len(chunk) for chunk in chunks(range(1_001))] == [500, 500, 1]
    assert list(chunks([])) == []
