"""What the benchmarks run against: a broker, a PostgreSQL server with fsync on, processes of their own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text

from soundmill.storage.broker import EmbeddedBroker
from soundmill.storage.settings import Settings

LIMIT_S = 300.0


@contextmanager
def embedded_broker(settings: Settings) -> Iterator[EmbeddedBroker]:
    """The embedded broker, stopped at the end."""
    broker = EmbeddedBroker(settings)
    broker.join_or_own()
    try:
        yield broker
    finally:
        broker.close()


@contextmanager
def database_of(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty job table, `sqlite` in the folder or `postgres` on a server of its own."""
    with ExitStack() as stack:
        yield f"sqlite:///{folder}/jobs.db" if kind == "sqlite" else stack.enter_context(postgres())


@contextmanager
def postgres() -> Iterator[str]:
    """A private server as the tests start it, but as careful and with as much memory as PostgreSQL's own default."""
    from tests.postgres import PostgresServer

    server = PostgresServer.launch()
    try:
        engine = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for setting in ("fsync = on", "full_page_writes = on", "shared_buffers = '128MB'"):
                connection.execute(text(f"ALTER SYSTEM SET {setting}"))
        engine.dispose()
        server.restart()
        yield server.url(server.create_database())
    finally:
        server.close()


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is asked to stop at the end, and made to after a minute."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def until(done: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Wait for what others do; leave with a sentence if they do not."""
    limit = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > limit:
            raise SystemExit(f"nothing more happened within {limit_s:g} s")
        time.sleep(0.02)
