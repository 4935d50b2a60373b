"""What lies in the job table and in Redis is told, and what cannot be reached is told as that."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import event, insert
from typer.testing import CliRunner

from soundmill.producer.cli import build_app
from soundmill.storage.broker import Broker, resolve_broker
from soundmill.storage.database import Database
from soundmill.storage.decisions import set_paused
from soundmill.storage.leader import lead
from soundmill.storage.lifecycle import State
from soundmill.storage.queue import RESPONSIVE, Publisher, make_app
from soundmill.storage.rows import Worker
from soundmill.storage.settings import Settings
from soundmill.storage.window import pick
from soundmill.worker.metrics import exporter as module
from soundmill.worker.metrics.exporter import Exporter

from ...postgres import PostgresServer
from ...storage.jobs import change, finish, running, submit, submit_many
from .scrapes import Scrape


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """An embedded broker; pytest's own folder may be too deep for a socket."""
    with tempfile.TemporaryDirectory(prefix="sm") as folder:
        settings = Settings(state_dir=Path(folder) / "state", runtime_dir=Path(folder) / "run")
        with resolve_broker(settings) as broker:
            yield broker


def settings_of(database: Database, broker: Broker, tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path,
        broker_url=broker.url,
        database_url=database.url.render_as_string(hide_password=False),
    )


@contextmanager
def exporting(settings: Settings) -> Iterator[Exporter]:
    with closing(Exporter(settings)) as exporter:
        yield exporter


@pytest.fixture
def exporter(
    database: Database, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Exporter]:
    monkeypatch.setattr(module, "KEPT_S", 0.0)
    with exporting(settings_of(database, broker, tmp_path)) as exporter:
        yield exporter


def test_an_empty_deployment_is_told_in_zeros(exporter: Exporter) -> None:
    scrape = Scrape.of(exporter.registry)
    assert (scrape("database_up"), scrape("broker_up")) == (1, 1)
    assert scrape("num_requests_waiting", model="espeak-ng") == 0
    assert scrape("oldest_waiting_seconds", model="csm-1b") == 0
    assert scrape("workers_live", model="csm-1b") == 0
    assert scrape("queue_paused", model="csm-1b") == 0
    assert scrape("jobs", state="available") == 0
    assert scrape("leader_lease_seconds") is None
    assert (scrape("disk_free_bytes", place="state") or 0) > 0
    assert (scrape("broker_memory_max_bytes") or 0) > 0


def test_what_the_job_table_holds_is_told(exporter: Exporter, database: Database) -> None:
    submit_many(database, 5, batch="some")
    old = submit(database, model="acoustic", kind="caption")
    finish(database, submit(database), State.DISCARDED, error_code="bad_input")
    held = running(database)
    with database.write() as connection:
        now = database.time(connection)
        lead(connection, database, holder="here", lease_s=10)
        set_paused(connection, database, "acoustic", paused=True)
        rows = [
            {"name": f"cpu-{n}@here", "incarnation": f"{n}", "host": "here", "card": f"cpu:{n}", "pid": n,
             "models": ["espeak-ng"], "slots": 4, "started_at": now, "heartbeat_at": at, "draining": n == 1}
            for n, at in enumerate((now, now, now - 600, 0.0))
        ]  # fmt: skip
        connection.execute(insert(Worker), rows)
    change(database, old, available_at=now - 1000)
    change(database, held.id, lease_until=now - 5)
    scrape = Scrape.of(exporter.registry)
    assert scrape("jobs", state="available") == 6
    assert scrape("jobs", state="executing") == 1
    assert scrape("num_requests_waiting", model="espeak-ng") == 5
    assert scrape("num_requests_waiting", model="acoustic") == 1
    assert 1000 <= (scrape("oldest_waiting_seconds", model="acoustic") or 0) < 1100
    assert scrape("discarded_recent", model="espeak-ng", reason="bad_input") == 1
    assert (scrape("leases_held"), scrape("leases_expired")) == (1, 1)
    assert 0 < (scrape("leader_lease_seconds") or 0) <= 10
    assert scrape("workers_live", model="espeak-ng") == 1
    assert (scrape("workers_draining"), scrape("workers_silent")) == (1, 1)
    assert scrape("queue_paused", model="acoustic") == 1


def test_the_window_in_redis_is_told(exporter: Exporter, database: Database, broker: Broker) -> None:
    submit_many(database, 3, priority=9)
    publisher = Publisher(make_app(broker.url, RESPONSIVE))
    with database.read() as connection:
        publisher.publish(pick(connection, {("espeak-ng", 0): 2}))
    publisher.close()
    scrape = Scrape.of(exporter.registry)
    with redis.Redis.from_url(broker.redis_url) as client:
        client.flushall()
    assert scrape("queue_messages", model="espeak-ng", step="0") == 2
    assert scrape("queue_messages", model="espeak-ng", step="6") == 0
    assert (scrape("broker_memory_used_bytes") or 0) > 0


def test_no_label_names_a_job_a_batch_or_a_tenant(exporter: Exporter, database: Database) -> None:
    submit_many(database, 3, batch="secret-batch", tenant="secret-tenant", args={"text": "secret text"})
    scrape = Scrape.of(exporter.registry)
    allowed = {"model", "state", "reason", "step", "part", "place"}
    assert {label for _, labels in scrape.values for label, _ in labels} <= allowed
    assert not any("secret" in value for _, labels in scrape.values for _, value in labels)


def test_looking_waits_for_no_writer_and_holds_up_none(exporter: Exporter, database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE batches SET turn = turn")
        assert Scrape.of(exporter.registry)("database_up") == 1
    statements: list[str] = []
    event.listen(
        exporter._collector._database.engine, "before_cursor_execute",
        lambda c, cursor, statement, *_: statements.append(statement),
    )  # fmt: skip
    Scrape.of(exporter.registry)
    assert statements
    assert all(s.startswith(("SELECT", "BEGIN", "SET LOCAL")) and "FOR " not in s for s in statements), (
        statements
    )


def test_many_who_ask_at_once_cost_one_look(database: Database, broker: Broker, tmp_path: Path) -> None:
    with exporting(settings_of(database, broker, tmp_path)) as exporter:
        assert Scrape.of(exporter.registry)("jobs", state="available") == 0
        exporter._collector._fresh_until += 3600
        submit(database)
        assert Scrape.of(exporter.registry)("jobs", state="available") == 0
        exporter._collector._fresh_until = 0
        assert Scrape.of(exporter.registry)("jobs", state="available") == 1


def test_a_table_that_is_not_there_is_down_and_is_not_made(broker: Broker, tmp_path: Path) -> None:
    settings = Settings(
        state_dir=tmp_path / "state", broker_url=broker.url, database_url=f"sqlite:///{tmp_path}/jobs.db"
    )
    with exporting(settings) as exporter:
        scrape = Scrape.of(exporter.registry)
    assert (scrape("database_up"), scrape("broker_up")) == (0, 1)
    assert scrape("jobs", state="available") is None
    assert not (tmp_path / "jobs.db").exists()


def test_a_file_that_is_no_table_is_down(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"nothing of the kind " * 100)
    settings = Settings(
        state_dir=tmp_path, broker_url=broker.url, database_url=f"sqlite:///{tmp_path}/jobs.db"
    )
    with exporting(settings) as exporter:
        assert Scrape.of(exporter.registry)("database_up") == 0


@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:1/0"])
def test_a_redis_that_is_gone_is_down(url: str | None, sqlite: Database, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, broker_url=url, database_url=f"sqlite:///{sqlite.url.database}")
    with exporting(settings) as exporter:
        scrape = Scrape.of(exporter.registry)
    assert (scrape("database_up"), scrape("broker_up")) == (1, 0)
    assert scrape("broker_memory_used_bytes") is None


@pytest.mark.postgres
def test_a_server_that_goes_and_comes_back_is_told(
    postgres_server: PostgresServer, shared_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_S", 0.0)
    with exporting(Settings(state_dir=tmp_path, database_url=shared_postgres_url)) as exporter:
        assert Scrape.of(exporter.registry)("database_up") == 1
        postgres_server.stop("immediate")
        assert Scrape.of(exporter.registry)("database_up") == 0
        postgres_server.start()
        assert Scrape.of(exporter.registry)("database_up") == 1


def test_the_command_prints_them_once(
    sqlite: Database, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings_of(sqlite, broker, tmp_path).environment().items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(build_app(), ["metrics", "show"])
    assert done.exit_code == 0, done.output
    assert Scrape(done.stdout)("database_up") == 1
