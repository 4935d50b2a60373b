"""The test session's own PostgreSQL server keeps what its docstring promises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

from .postgres import PostgresServer, StopMode

_TEST_PROCESS = """
import time
import postgres

server = postgres.PostgresServer.launch()
print(server.pid, server.folder, flush=True)
time.sleep(100)
"""


def answer(url: str, statement: str) -> object:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sqlalchemy.text(statement))
        return result.scalar() if result.returns_rows else None


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def command_line(pid: str) -> bytes:
    """Of a process; nothing if it has ended, also while nobody has asked how."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_gets_an_empty_database(database_url: str, turn: int) -> None:
    answer(database_url, "CREATE TABLE made_by_a_test (turn INTEGER)")

    assert answer(database_url, "SELECT count(*) FROM made_by_a_test") == 0


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_what_was_committed_outlives_a_restart_at_the_same_address(
    postgres_server: PostgresServer, postgres_url: str, mode: StopMode
) -> None:
    answer(postgres_url, "CREATE TABLE kept AS SELECT 7 AS number")

    postgres_server.stop(mode)
    with pytest.raises(OperationalError):
        answer(postgres_url, "SELECT 1")
    postgres_server.start()

    assert answer(postgres_url, "SELECT number FROM kept") == 7


def test_what_was_committed_outlives_a_killed_server(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    answer(postgres_url, "CREATE TABLE kept AS SELECT 7 AS number")
    assert postgres_server.pid is not None

    os.kill(postgres_server.pid, signal.SIGKILL)
    wait_until(lambda: postgres_server.pid is None)
    postgres_server.start()

    assert answer(postgres_url, "SELECT number FROM kept") == 7


def test_a_server_that_a_test_leaves_stopped_runs_in_the_next(postgres_server: PostgresServer) -> None:
    postgres_server.stop()  # the tests around this one are the proof


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_and_its_folder_are_gone_after_the_test_process_was_killed(
    postgres_server: PostgresServer, sign: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _TEST_PROCESS], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        assert command_line(pid) != b""

        process.send_signal(sign)

        wait_until(lambda: not Path(folder).exists())
        assert command_line(pid) == b""
