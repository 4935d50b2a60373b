"""Each part that the doctor looks at is broken, and he says so with a remedy."""

from __future__ import annotations

import http.server
import os
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from sqlalchemy import insert, text, update

from soundmill.storage.broker_server import find_server
from soundmill.storage.database import Database
from soundmill.storage.decisions import set_draining, set_paused
from soundmill.storage.leader import lead
from soundmill.storage.lifecycle import State
from soundmill.storage.migrations import HEAD
from soundmill.storage.rows import Leader, Worker
from soundmill.storage.settings import Settings
from soundmill.worker import database_findings as of_database
from soundmill.worker import host_findings as of_host
from soundmill.worker.broker_findings import broker_findings
from soundmill.worker.database_findings import database_findings
from soundmill.worker.finding import Finding
from soundmill.worker.host_findings import host_findings
from soundmill.worker.storage_findings import storage_findings

from ..ports import free_port
from ..postgres import PostgresServer
from ..storage.jobs import change, finish, running, submit, submit_many

GIB = 1024**3


def by_verdict(findings: Iterator[Finding], verdict: str) -> dict[str, str]:
    return {finding.what: finding.detail for finding in findings if finding.verdict == verdict}


def broken(findings: Iterator[Finding]) -> dict[str, str]:
    return by_verdict(findings, "broken")


def warned(findings: Iterator[Finding]) -> dict[str, str]:
    return by_verdict(findings, "warning")


# -- Redis -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A server of the tests' own, with a password; its configuration is changed while it runs."""
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", "secret", "--save", ""]
    process = subprocess.Popen([find_server(), *options], cwd=folder, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, password="secret")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    yield client
    client.close()
    process.terminate()
    process.wait(30)


@pytest.fixture
def configured(server: redis.Redis) -> Iterator[redis.Redis]:
    """The server as it should be; what a test changes is put back."""
    right = {"maxmemory-policy": "noeviction", "maxmemory": "0", "appendonly": "yes", "maxclients": "10000"}

    def put_right() -> None:
        server.replicaof("NO", "ONE")
        for name, value in right.items():
            server.config_set(name, value)

    put_right()
    yield server
    put_right()


def at(server: redis.Redis, tmp_path: Path, password: str = "secret") -> Settings:
    port = server.connection_pool.connection_kwargs["port"]
    return Settings(state_dir=tmp_path / "state", broker_url=f"redis://:{password}@127.0.0.1:{port}/0")


def test_a_broker_that_is_as_it_should_be_is_fine(configured: redis.Redis, tmp_path: Path) -> None:
    (finding,) = broker_findings(at(configured, tmp_path))
    assert finding.verdict == "ok"
    assert "0 message(s) wait" in finding.detail
    assert "secret" not in finding.detail


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "maxmemory-policy",
            "allkeys-lru",
            "drops messages, and their jobs wait until they are missed; CONFIG SET",
        ),
        ("maxmemory", "nearly", "MiB are used: full, it takes no messages; raise maxmemory"),
        ("appendonly", "no", "keeps no append-only file"),
    ],
)
def test_a_broker_that_may_lose_or_refuse_messages_is_told(
    name: str, value: str, words: str, configured: redis.Redis, tmp_path: Path
) -> None:
    nearly = str(int(1.15 * configured.info()["used_memory"]))
    configured.config_set(name, nearly if value == "nearly" else value)
    assert words in warned(broker_findings(at(configured, tmp_path)))["broker"]


def test_a_broker_that_is_full_is_broken(configured: redis.Redis, tmp_path: Path) -> None:
    configured.config_set("maxmemory", "1mb")
    assert (
        "refuses to work (command not allowed when used memory"
        in broken(broker_findings(at(configured, tmp_path)))["broker"]
    )


def test_a_replica_takes_no_messages(configured: redis.Redis, tmp_path: Path) -> None:
    configured.replicaof("127.0.0.1", 1)
    assert "read only replica" in broken(broker_findings(at(configured, tmp_path)))["broker"]


def test_a_user_who_may_not_do_what_is_needed_is_told(configured: redis.Redis, tmp_path: Path) -> None:
    configured.acl_setuser(
        "narrow", enabled=True, passwords=["+secret"], keys=["*"], commands=["+ping", "+info"]
    )
    settings = at(configured, tmp_path)
    url = str(settings.broker_url).replace("redis://:", "redis://narrow:")
    settings = settings.model_copy(update={"broker_url": url})
    assert "refuses us" in broken(broker_findings(settings))["broker"]


def test_a_wrong_password_is_told_and_not_shown(configured: redis.Redis, tmp_path: Path) -> None:
    detail = broken(broker_findings(at(configured, tmp_path, "guessed")))["broker"]
    assert "refuses the password" in detail
    assert "broker_url" in detail
    assert "guessed" not in detail


def test_a_broker_that_is_not_there_is_told(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, broker_url=f"redis://127.0.0.1:{free_port()}/0")
    assert "does not answer" in broken(broker_findings(settings))["broker"]


def test_no_server_to_start_is_told_with_what_installs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("soundmill.storage.broker_server._carried_server", lambda: None)
    assert (
        "pip install 'soundmill[embedded]'" in broken(broker_findings(Settings(state_dir=tmp_path)))["broker"]
    )


def test_a_socket_that_fits_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr("soundmill.storage.broker_place._try_bind", refuse)
    assert (
        "set runtime_dir to a short path"
        in warned(broker_findings(Settings(state_dir=tmp_path)))["broker socket"]
    )


# -- the job table -----------------------------------------------------------------------------------


def on(database: Database) -> Settings:
    return Settings(database_url=database.url.render_as_string(hide_password=False))


def test_a_table_as_it_should_be_is_fine(database: Database) -> None:
    found = list(database_findings(on(database)))
    assert {finding.verdict for finding in found} == {"ok"}
    assert [finding.what for finding in found if finding.what != "clock"] == ["database", "queue"]


def test_looking_makes_no_table(tmp_path: Path) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/sub/jobs.db")
    (finding,) = database_findings(settings)
    assert (finding.verdict, "not there yet" in finding.detail) == ("ok", True)
    (tmp_path / "sub").mkdir()
    sqlite3.connect(tmp_path / "sub/jobs.db").close()
    (tmp_path / "sub/jobs.db").touch()
    (finding,) = database_findings(settings)
    assert (finding.verdict, "no tables yet" in finding.detail) == ("ok", True)


@pytest.mark.parametrize(("version", "verdict"), [("0001", "warning"), ("9999", "broken")])
def test_a_table_of_another_version_is_told(version: str, verdict: str, sqlite: Database) -> None:
    with sqlite.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": version})
    (finding,) = database_findings(on(sqlite))
    assert (finding.verdict, finding.what) == (verdict, "database")
    assert version in finding.detail
    assert HEAD in finding.detail


def test_a_table_that_somebody_keeps_locked_is_told(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_database, "Database", lambda url: Database(url, busy_s=0.1))
    other = sqlite3.connect(str(sqlite.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    detail = broken(database_findings(on(sqlite)))["database"]
    other.close()
    assert "database is locked; another process keeps it locked: end it" in detail


def test_a_file_that_is_no_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database " * 100)
    detail = broken(database_findings(Settings(database_url=f"sqlite:///{tmp_path}/jobs.db")))["database"]
    assert "is no job table of ours, or is damaged (file is not a database)" in detail


def test_a_table_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    detail = broken(database_findings(Settings(database_url=f"sqlite:///{tmp_path}/jobs.db")))["database"]
    assert "cannot be written to" in detail


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("change_of", "words"),
    [
        ({"username": "nobody"}, "put the right user and password into database_url"),
        ({"database": "nowhere"}, "create it, or name another in database_url"),
        ({"port": 1}, "start the server, open its port"),
    ],
)
def test_a_server_that_does_not_let_us_in_is_told(
    change_of: dict[str, Any], words: str, shared_postgres_url: str
) -> None:
    url = Database(shared_postgres_url).url.set(**change_of)
    if "port" in change_of:
        url = url.set(host="127.0.0.1", query={})
    settings = Settings(database_url=url.render_as_string(hide_password=False))
    assert words in broken(database_findings(settings))["database"]


@pytest.mark.postgres
def test_a_clock_that_differs_from_the_servers_is_told(
    shared_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 100)
    detail = warned(database_findings(Settings(database_url=shared_postgres_url)))["clock"]
    assert "this host's clock is 100 s behind the database's" in detail


@pytest.mark.postgres
def test_statements_that_wait_for_a_lock_are_told(
    shared_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_database, "WAITS_S", 0.0)
    database = Database(shared_postgres_url)

    def wait() -> None:
        with database.write() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(4711)"))

    with database.write() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(4711)"))
        thread = threading.Thread(target=wait)
        thread.start()
        until = time.monotonic() + 30
        detail = None
        while detail is None and time.monotonic() < until:
            detail = warned(database_findings(Settings(database_url=shared_postgres_url))).get(
                "database locks"
            )
    thread.join()
    database.close()
    assert detail is not None
    assert detail.startswith("1 statement(s) wait for a lock")


# -- the jobs ----------------------------------------------------------------------------------------


def worker_row(database: Database, **changes: Any) -> None:
    with database.write() as connection:
        now = database.time(connection)
        values = {
            "name": "cpu-0@here", "incarnation": "cpu-0@here#1", "host": "here", "card": "cpu:0", "pid": 1,
            "models": ["espeak-ng"], "slots": 1, "started_at": now, "heartbeat_at": now, "draining": False,
        }  # fmt: skip
        ago_s = changes.pop("silent_s", 0.0)
        connection.execute(insert(Worker).values(values | {"heartbeat_at": now - ago_s} | changes))


def leader_row(database: Database, lease_s: float = 10.0) -> None:
    with database.write() as connection:
        assert lead(connection, database, holder="here/1", lease_s=lease_s)


def test_jobs_that_somebody_works_on_are_fine(database: Database) -> None:
    submit_many(database, 3)
    worker_row(database)
    leader_row(database)
    found = {finding.what: finding for finding in database_findings(on(database))}
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["queue"].detail == "3 job(s) wait, 1 card(s) work"


def test_jobs_that_nobody_serves_are_told(database: Database) -> None:
    submit_many(database, 3)
    worker_row(database, models=["acoustic"])
    leader_row(database)
    detail = broken(database_findings(on(database)))["queue espeak-ng"]
    assert detail.startswith("3 job(s) wait, one for ")
    assert detail.endswith("no live worker serves it; soundmill worker --model espeak-ng")


def test_a_queue_that_is_paused_and_one_whose_workers_drain_are_told(database: Database) -> None:
    submit(database)
    worker_row(database)
    leader_row(database)
    with database.write() as connection:
        set_draining(connection, "cpu:0", draining=True)
    assert "worker drain --undo CARD" in broken(database_findings(on(database)))["queue espeak-ng"]
    with database.write() as connection:
        set_paused(connection, database, "espeak-ng", paused=True)
    assert "soundmill queue resume espeak-ng" in warned(database_findings(on(database)))["queue espeak-ng"]


def test_a_job_that_waits_for_long_is_told(database: Database) -> None:
    worker_row(database)
    leader_row(database)
    change(database, submit(database), available_at=time.time() - 3 * 3600)
    assert (
        "1 job(s) wait, one for 3 h; add cards" in warned(database_findings(on(database)))["queue espeak-ng"]
    )


def test_a_worker_that_fell_silent_is_told_and_one_that_left_is_not(database: Database) -> None:
    worker_row(database, silent_s=600)
    worker_row(database, name="cpu-1@here", heartbeat_at=0.0)
    found = warned(database_findings(on(database)))
    assert found.keys() == {"worker cpu-0@here"}
    assert "fell silent 10 min ago" in found["worker cpu-0@here"]


@pytest.mark.parametrize("case", ["never", "handed back", "stale"])
def test_workers_without_a_leader_are_told(case: str, database: Database) -> None:
    worker_row(database)
    if case != "never":
        leader_row(database)
        with database.write() as connection:
            until = 0.0 if case == "handed back" else database.time(connection) - 60
            connection.execute(update(Leader).values(lease_until=until))
    words = "for 60 s" if case == "stale" else "and never did"
    assert f"no supervisor leads, {words}" in broken(database_findings(on(database)))["dispatcher"]


def test_leases_that_nobody_rescues_are_told(database: Database) -> None:
    held = running(database)
    with database.read() as connection:
        now = database.time(connection)
    change(database, held.id, lease_until=now - 300)
    assert (
        "1 job(s) belong to workers that are gone, one for 5 min"
        in broken(database_findings(on(database)))["leases"]
    )


def test_jobs_that_mostly_fail_are_told_with_their_reasons(database: Database) -> None:
    for number in range(20):
        code = "bad_input" if number < 11 else "out_of_memory"
        finish(
            database, submit(database), State.DISCARDED if number < 12 else State.COMPLETED, error_code=code
        )
    detail = warned(database_findings(on(database)))["discarded jobs"]
    assert detail.startswith("12 of the newest 20 jobs that ended failed (bad_input 11, out_of_memory 1)")


def test_a_clock_that_was_set_back_is_told(sqlite: Database) -> None:
    worker_row(sqlite, silent_s=-7_200)
    leader_row(sqlite)
    assert "was set back by 120 min or more" in warned(database_findings(on(sqlite)))["clock"]


# -- storage -----------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(state_dir=tmp_path / "state", storage_url=f"file://{tmp_path}/file/artifacts")
    assert "file" in broken(storage_findings(settings))["storage"]


def test_a_store_without_a_driver_or_of_no_known_kind_is_told(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, storage_url="ftp://somewhere/else")
    assert "ftp" in broken(storage_findings(settings))["storage"]


@pytest.mark.parametrize(
    ("free", "total", "verdict"),
    [(0.5, 100, "broken"), (3, 100, "warning"), (30, 1000, "ok"), (3, 10, "ok")],
)
def test_a_disk_that_is_full_or_soon_will_be_is_told(
    free: float, total: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=int(free * GIB), total=int(total * GIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    (finding,) = storage_findings(Settings(state_dir=tmp_path))
    assert finding.verdict == verdict
    assert ("free some space or move state_dir" in finding.detail) == (verdict != "ok")
    assert of_host._disk(tmp_path).verdict == verdict


# -- the host ----------------------------------------------------------------------------------------


def test_a_host_as_it_should_be_is_fine(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", flower_port=free_port())
    found = {finding.what: finding.verdict for finding in host_findings(settings)}
    assert found.pop("extras") in ("ok", "missing")  # no machine of ours has an NPU
    assert set(found) == {"state folder", "disk", "memory", "limits"}
    assert found["state folder"] == "ok"


def test_a_state_folder_that_is_no_folder_or_open_to_others_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in of_host._state_folder(tmp_path / "file").detail
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    finding = of_host._state_folder(folder)
    assert (finding.verdict, f"chmod go-w {folder}" in finding.detail) == ("broken", True)
    folder.chmod(0o755)
    assert of_host._state_folder(folder).verdict == "ok"


def test_a_state_folder_of_somebody_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert "belongs to another user" in of_host._state_folder(tmp_path).detail
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written to by this user" in of_host._state_folder(tmp_path).detail


def test_limits_that_are_too_low_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        finding = of_host._limits()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (finding.verdict, "512 open files are too few: ulimit -n" in finding.detail) == ("warning", True)


def test_little_memory_few_files_and_a_clock_that_was_never_set_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_host, "host_memory", lambda: (GIB // 10, 16 * GIB))
    real = os.statvfs(tmp_path)
    sizes = {
        "f_bavail": real.f_blocks,
        "f_blocks": real.f_blocks,
        "f_bfree": real.f_blocks,
        "f_frsize": 2**20,
    }
    few = SimpleNamespace(f_files=1000, f_favail=3, **sizes)
    monkeypatch.setattr(os, "statvfs", lambda _: few)
    monkeypatch.setattr(time, "time", lambda: 60.0)
    settings = Settings(state_dir=tmp_path, flower_port=free_port())
    found = {finding.what: finding for finding in host_findings(settings)}
    assert "the kernel may kill workers" in found["memory"].detail
    assert "3 files can be made" in found["disk"].detail
    assert (found["clock"].verdict, "set its clock" in found["clock"].detail) == ("broken", True)


class Flower(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/api/workers" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("status", "open_to_all"), [(200, True), (401, False)])
def test_a_flower_that_asks_for_no_password_is_told(
    status: int, open_to_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flower, "status", status)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flower) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        found = broken(of_host._flower(Settings(flower_port=page.server_port), {}))
        page.shutdown()
    assert ("asks for no password" in found.get("flower", "")) == open_to_all


def test_a_flower_whose_password_others_can_read_is_told() -> None:
    settings = Settings(flower_address="192.0.2.1", flower_port=free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_host, "_answers_anybody", lambda _: False)
        assert "put docker/flower-proxy.conf" in warned(of_host._flower(settings, {}))["flower"]
        given = {"FLOWER_UNAUTHENTICATED_API": "true"}
        assert "unset it" in broken(of_host._flower(Settings(), given))["flower"]


def test_what_is_not_installed_is_told_by_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numba": None, "espeakng-loader": None, "torch": "1.0", "celery": "5.7.0"}
    real = metadata.version

    def version(name: str) -> str:
        given = versions.get(name, "?")
        if given is None or (given == "?" and name == "torch_npu"):
            raise metadata.PackageNotFoundError(name)
        return real(name) if given == "?" else given

    monkeypatch.setattr(metadata, "version", version)
    found = {finding.verdict: finding.detail for finding in of_host._extras()}
    assert "torch 1.0 (<3,>=2.13)" in found["warning"]
    assert "models (numba)" in found["missing"]
    assert "speech (espeakng-loader)" in found["missing"]
    versions["celery"] = None
    assert "soundmill lacks celery" in broken(of_host._extras())["extras"]


@pytest.mark.postgres
def test_a_server_that_was_stopped_is_told(postgres_server: PostgresServer) -> None:
    url = postgres_server.url(postgres_server.create_database())
    postgres_server.stop()
    assert "start the server" in broken(database_findings(Settings(database_url=url)))["database"]
