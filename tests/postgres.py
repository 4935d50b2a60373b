"""The PostgreSQL server of a test session: private, temporary, run by an unprivileged user.

It lives in a folder of its own among the temporary files, listens on a unix socket in there and is
started by the first test that asks for it. A watcher ends it and removes the folder as soon as the
test process is gone, however it went. No other server of this machine is touched or asked.

Fixtures, for `conftest.py` to hand on:

    postgres_url      address of a fresh, empty database
    postgres_server   the server itself: `stop`, `start`, `restart`, `pid`; running again after the test
    database_url      the test runs twice: with a fresh SQLite file and with a fresh PostgreSQL database

Where there is no server to start, exactly these tests are skipped, and fail where `CI` is set.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest

PORT = 5432  # only the name of the socket's file
ROLE = "soundmill"
SOCKET_PATH_LIMIT = 107  # bytes in `sockaddr_un.sun_path`, without the closing zero

START_LIMIT_S = 10

StopMode = Literal["smart", "fast", "immediate"]

# `fsync = off` keeps what was committed when a server process is killed: only a crash of the whole
# machine can lose it. So tests may kill the server, but cannot prove anything about power cuts.
_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
port = {port}
fsync = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 200
timezone = 'UTC'
"""

# Waits until nobody holds the other end of its standard input, then ends the server and removes its folder.
# A process number may have been given to a stranger meanwhile: the server is the one that works in `data`.
_WATCHER = """
cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
ours() { [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; }
if ours "$1"; then
    kill -QUIT "$pid"
    kill -CONT "$pid"
    for _ in 1 2 3 4 5 6 7 8 9 10; do ours "$1" && sleep 0.2; done
    ours "$1" && kill -KILL "$pid"
fi
rm -rf -- "$1"
"""


class PostgresUnavailable(Exception):
    """There is no PostgreSQL server that could be started here; the text is one line and says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Programs:
    folder: Path
    user: pwd.struct_passwd | None
    """Who runs them; None is whoever runs the tests."""

    def run(self, *command: str | Path, cwd: Path) -> str:
        """Run one of PostgreSQL's programs and return what it printed.

        Raises:
            subprocess.CalledProcessError: it failed; `output` says why.
        """
        switch: dict[str, Any] = {}
        if self.user is not None:
            switch = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        # A file, because a server keeps its standard output for as long as it lives: a pipe would not end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [self.folder / command[0], *command[1:]],
                cwd=cwd,  # the tests' own folder may be closed to that user
                env=_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                **switch,
            )
            output.seek(0)
            text = output.read().decode(errors="replace")
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, [str(part) for part in command], text)
        return text


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What PostgreSQL's programs may see: not the PGDATA, PGHOST, … of the person who runs the tests."""
    return {name: value for name, value in ours.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _program_folders() -> Iterator[Path]:
    """Where the programs may be, the likeliest first; `has_postgres` in scripts/ knows the same places."""
    if on_path := shutil.which("initdb"):
        yield Path(on_path).resolve().parent
    packaged = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(packaged, key=lambda path: float(path.parent.name), reverse=True)
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], check=False, capture_output=True, text=True)
        yield Path(answer.stdout.strip())


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Who shall run the server, which refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresUnavailable("PostgreSQL refuses root, and there is neither a user postgres nor nobody")


def _find_programs() -> _Programs:
    user = _unprivileged_user()
    for folder in _program_folders():
        programs = _Programs(folder=folder, user=user)
        try:
            for name in ("initdb", "pg_ctl", "postgres"):
                programs.run(name, "--version", cwd=Path("/"))
        except (OSError, subprocess.SubprocessError):
            continue  # only the client's half is installed, or that user may not enter
        return programs
    raise PostgresUnavailable("no PostgreSQL server is installed: apt-get install postgresql")


def _is_open_to_all(folder: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))


def _new_folder(user: pwd.struct_passwd | None) -> Path:
    """A folder that `user` owns, can reach, and whose socket's path is not too long."""
    for base in (Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")):
        length = len(os.fsencode(base / "soundmill-pg-12345678" / f".s.PGSQL.{PORT}"))
        if length > SOCKET_PATH_LIMIT or (user is not None and not _is_open_to_all(base)):
            continue
        folder = Path(tempfile.mkdtemp(prefix="soundmill-pg-", dir=base))
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        return folder
    raise PostgresUnavailable("PostgreSQL finds no folder for temporary files that its user can enter")


class PostgresServer:
    """A server in its own folder, on its own socket; its addresses stay the same over restarts."""

    def __init__(self, programs: _Programs, folder: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._numbers = itertools.count(1)
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "watcher", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends the tests, and that ends the watcher's input
            cwd="/",
        )

    @classmethod
    def launch(cls) -> PostgresServer:
        """Make a cluster and start its server.

        Raises:
            PostgresUnavailable: the machine has none, or it does not start here.
        """
        programs = _find_programs()
        server = cls(programs, _new_folder(programs.user))
        try:
            server._create_cluster()
            server.start()
        except BaseException as error:
            server.close()
            if isinstance(error, subprocess.CalledProcessError):
                reason = " ".join(str(error.output).split())[-300:]
                raise PostgresUnavailable(f"PostgreSQL does not start here: {reason}") from error
            raise
        return server

    @property
    def pid(self) -> int | None:
        """The server's first process; None while it is stopped."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
            return pid if Path(f"/proc/{pid}/cwd").readlink() == self._data else None
        except (FileNotFoundError, ValueError):
            return None  # the file outlives a server that was killed

    def url(self, database: str) -> str:
        """SQLAlchemy's address of one of its databases."""
        return f"postgresql+psycopg://{ROLE}@/{database}?host={quote(str(self.folder))}&port={PORT}"

    def start(self) -> None:
        """Start the server and wait until it answers; nothing if it runs."""
        give_up_at = time.monotonic() + START_LIMIT_S
        while self.pid is None:
            try:
                self._control("start", "--log", self._log)
            except subprocess.CalledProcessError as error:
                # The children of a killed server hold its shared memory until they notice.
                if time.monotonic() > give_up_at:
                    error.output += self._log.read_text()
                    raise
                time.sleep(0.1)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait until it is gone; nothing if it is stopped.

        Args:
            mode: "smart" waits for clients to leave, "fast" throws them out, "immediate" is a crash:
                the next start recovers from the log.
        """
        if self.pid is not None:
            self._control("stop", "--mode", mode)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start the server."""
        self.stop(mode)
        self.start()

    def create_database(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        """End the server for good and remove its folder."""
        self._watcher.communicate()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _create_cluster(self) -> None:
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", f"--username={ROLE}"]
        self._programs.run("initdb", *options, self._data, cwd=self.folder)
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(_SETTINGS.format(folder=self.folder, port=PORT))

    def _control(self, *command: str | Path) -> None:
        self._programs.run("pg_ctl", *command, "--wait", "--pgdata", self._data, cwd=self.folder)

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(
            host=str(self.folder), port=PORT, user=ROLE, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement.encode())


def _is_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


@pytest.fixture(scope="session")
def postgres_session() -> Iterator[PostgresServer]:
    """The one server of the run. Tests ask for `postgres_server` or `postgres_url`."""
    try:
        server = PostgresServer.launch()
    except PostgresUnavailable as error:
        if _is_ci():
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    yield server
    server.close()


@pytest.fixture
def postgres_server(postgres_session: PostgresServer) -> Iterator[PostgresServer]:
    """The server, for tests that stop, kill or restart it; the next test finds it running."""
    yield postgres_session
    postgres_session.start()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Address of a fresh, empty PostgreSQL database."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.start()
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a fresh, empty database: the test runs once with SQLite and once with PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'soundmill.db'}"
    return str(request.getfixturevalue("postgres_url"))
