"""Everything that a run is made of: servers, proxies, disk, workers and producers; and a way past the proxies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disk import Disk
from event_log import VARIABLE, events
from proxy import Proxy
from redis_server import RedisServer
from seat import Seat
from sqlalchemy import func, select
from stub_model import ENGINE, ORDERS

from soundmill.storage.database import Database
from soundmill.storage.errors import StorageError
from soundmill.storage.lifecycle import FINAL, State
from soundmill.storage.rows import Job, Worker
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings

HERE = Path(__file__).parent
MODELS = ("stub-voice", "stub-align")

SHORT = {
    "lease_s": 6.0,
    "heartbeat_s": 2.0,
    "reaper_s": 1.0,
    "leader_lease_s": 3.0,
    "watchdog_step_s": 6.0,
    "watchdog_decode_s": 6.0,
    "shutdown_grace_s": 3.0,
    "max_deadline_s": 60.0,
    "artifact_grace_s": 61.0,
}
"""Settings under which a fault is over in seconds; figures are stated relative to them."""

START_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """How large a run is.

    Attributes:
        database: `sqlite` or `postgres`.
        seed: Of plan and faults.
        jobs: Of both producers together.
        workers: Cards, each with a supervisor of its own.
        producers: Processes that submit.
        span_s: Over which they do.
        engine: Whether the models run in the engine, which loads torch.
    """

    database: str
    seed: int
    jobs: int
    workers: int
    producers: int
    span_s: float
    engine: bool


class Stuck(Exception):
    """Something did not happen in any time that one would wait."""


class Stage:
    """A host with everything on it, in a folder of its own."""

    def __init__(self, cast: Cast) -> None:
        """Start the servers and the workers, and wait until all serve."""
        self.cast = cast
        self._stack = ExitStack()
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise

    def _set_up(self) -> None:
        # Not in $TMPDIR, which may be long: sockets have short paths.
        self.folder = Path(tempfile.mkdtemp(prefix="soundmill-chaos-", dir="/tmp"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.log, self.orders = self.folder / "events.jsonl", self.folder / "orders"
        self.orders.mkdir()
        self.disk = Disk(self.folder / "blobs", 32 + self.cast.jobs // 40)
        self._stack.callback(self.disk.close)
        self._start_redis()
        self._start_database()
        self.environment = self._environment()
        self.tended = 0
        self.seats = [
            Seat(f"cpu:{number}", MODELS, self.environment, self.folder / f"worker-{number}.log")
            for number in range(self.cast.workers)
        ]
        self._stack.callback(self._end_processes)
        self._submitters: dict[int, subprocess.Popen[bytes]] = {}
        for seat in self.seats:
            seat.start()
        self.until(self.all_serve, START_S, "not all workers came up")

    def _start_redis(self) -> None:
        folder = self.folder / "r"
        folder.mkdir()
        self.redis = RedisServer(folder)
        self.redis.start()
        self._stack.callback(self.redis.close)
        self.redis_proxy = Proxy(self.redis.socket)
        self._stack.callback(self.redis_proxy.close)

    def _start_database(self) -> None:
        self.postgres: Any = None
        self.database_proxy: Proxy | None = None
        if self.cast.database == "sqlite":
            direct = through = f"sqlite:///{self.folder}/jobs.db"
        else:
            from tests.postgres import PORT, ROLE, PostgresServer

            self.postgres = PostgresServer.launch()
            self._stack.callback(self.postgres.close)
            name = self.postgres.create_database()
            self.database_proxy = Proxy(self.postgres.folder / f".s.PGSQL.{PORT}")
            self._stack.callback(self.database_proxy.close)
            direct = self.postgres.url(name)
            through = f"postgresql+psycopg://{ROLE}@127.0.0.1:{self.database_proxy.port}/{name}"
        self.database = Database(direct)
        self._stack.callback(self.database.close)
        migrate(self.database)
        self.settings = Settings(
            state_dir=self.folder / "state",
            broker_url=f"redis://127.0.0.1:{self.redis_proxy.port}/0",
            database_url=through,
            storage_url=f"file://{self.disk.folder}",
            plugins=("stub_model",),
            **SHORT,
        )

    def _environment(self) -> dict[str, str]:
        own = {
            VARIABLE: str(self.log),
            ORDERS: str(self.orders),
            ENGINE: "on" if self.cast.engine else "off",
            "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OMP_NUM_THREADS": "1",
        }
        return os.environ | self.settings.environment() | own

    # -- what is going on --------------------------------------------------------------------------

    @property
    def bound_s(self) -> float:
        """The longest that recovery may take: a lease, a reaper's round, and two seconds."""
        return self.settings.lease_s + self.settings.reaper_s + 2.0

    def until(self, holds: Callable[[], object], limit_s: float, otherwise: str) -> None:
        """Wait for something, and look after the supervisors meanwhile.

        Raises:
            Stuck: It did not come; with the sentence.
        """
        limit = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > limit:
                raise Stuck(f"{otherwise} within {limit_s:g} s")
            self.tend()
            time.sleep(0.05)

    def tend(self) -> None:
        """Start the supervisors again that ended by themselves, as an init does: the job table was away."""
        for seat in self.seats:
            if not seat.runs:
                seat.bury()
                seat.start()
                self.tended += 1

    def words(self) -> str:
        """What every process said."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')}" for log in logs)

    def all_serve(self) -> bool:
        """Whether every card has a process that has reported itself."""
        there = {(seat.card, worker.pid) for seat in self.seats if (worker := seat.worker()) is not None}
        with self.database.read() as connection:
            query = select(Worker.card, Worker.pid).where(Worker.heartbeat_at > 0)
            reported = {(row.card, row.pid) for row in connection.execute(query)}
        return len(there) == len(self.seats) and there <= reported

    def executing(self, incarnation: str | None = None) -> int:
        """How many jobs are in flight, of one worker or of all; read past the proxy."""
        query = select(func.count()).select_from(Job).where(Job.state == State.EXECUTING)
        if incarnation is not None:
            query = query.where(Job.worker == incarnation)
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def states(self) -> Mapping[str, int]:
        """How many jobs are in each state."""
        with self.database.read() as connection:
            rows = connection.execute(select(Job.state, func.count()).group_by(Job.state)).all()
        return {row[0]: int(row[1]) for row in rows}

    def all_final(self) -> bool:
        """Whether no job waits or runs."""
        try:
            return all(State(state) in FINAL for state in self.states())
        except StorageError:
            return False

    # -- producers ---------------------------------------------------------------------------------

    def producer_log(self, number: int) -> Path:
        """Where a producer writes what it was answered."""
        return self.folder / f"producer-{number}.jsonl"

    def start_producer(self, number: int) -> None:
        """Start a producer, or start it again."""
        share = self.cast.jobs // self.cast.producers
        words = [self.cast.seed, number, share, self.cast.span_s, self.producer_log(number)]
        with (self.folder / f"producer-{number}.log").open("ab") as log:
            self._submitters[number] = subprocess.Popen(
                [sys.executable, HERE / "submitter.py", *map(str, words)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def submits(self, number: int) -> bool:
        """Whether a producer is still at it."""
        return self._submitters[number].poll() is None

    def kill_producer(self, number: int) -> bool:
        """Kill one that still submits; return whether it did."""
        process = self._submitters[number]
        if not self.submits(number):
            return False
        process.kill()
        process.wait()
        return True

    def producers_done(self) -> bool:
        """Whether all have submitted everything.

        Raises:
            Stuck: One of them failed.
        """
        for number, process in self._submitters.items():
            status = process.poll()
            if status:
                raise Stuck(f"producer {number} ended with {status}")
        finished = (
            any(event["what"] == "finished" for event in events(self.producer_log(number)))
            for number in self._submitters
        )
        return all(process.poll() == 0 for process in self._submitters.values()) and all(finished)

    # -- the end -----------------------------------------------------------------------------------

    def stop_workers(self) -> list[int]:
        """Ask all supervisors to stop; return their exit statuses."""
        for seat in self.seats:
            if seat.runs:
                assert seat.supervisor is not None
                seat.supervisor.terminate()
        statuses = []
        for seat in self.seats:
            assert seat.supervisor is not None
            try:
                statuses.append(seat.supervisor.wait(timeout=60))
            except subprocess.TimeoutExpired:
                seat.supervisor.kill()
                statuses.append(seat.supervisor.wait())
            seat.bury()
        return statuses

    def _end_processes(self) -> None:
        for process in [*self._submitters.values(), *(seat.supervisor for seat in self.seats)]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        for seat in self.seats:
            if seat.supervisor is not None:
                seat.bury()

    def close(self) -> None:
        """End everything and remove the folder."""
        self._stack.close()
