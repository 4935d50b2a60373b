"""The real stack in processes of its own, and what a test needs to break it and to count what became of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import redis
from sqlalchemy import func, select
from ulid import ULID

from soundmill.storage.broker import redis_url, running_broker_url
from soundmill.storage.catalog import load_catalog
from soundmill.storage.database import Database
from soundmill.storage.decisions import Cancellation, cancel
from soundmill.storage.errors import StorageUnavailable
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import AttemptView, JobView, attempts_of, get_job
from soundmill.storage.rows import Attempt, Batch, Job
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings
from soundmill.storage.submission import NewJob, accept, request_digest

PLUGINS = Path(__file__).parent.parent / "plugins"

QUICK = {
    "lease_s": 3.0,
    "heartbeat_s": 1.0,
    "reaper_s": 1.0,
    "leader_lease_s": 3.0,
    "watchdog_step_s": 30.0,
    "shutdown_grace_s": 3.0,
}
"""Settings under which a fault is over in seconds. A beat is short beside a lease: the machine may be busy."""

# One machine's idea of "soon" is another's of "never": these only end a test that would hang.
START_S = 60.0
SETTLE_S = 60.0
SLACK_S = 1.0


class Stack:
    """A supervisor with its children, broker and job table; and the test's own view of the table."""

    def __init__(self, folder: Path, database_url: str, **settings: Any) -> None:
        self.folder = folder
        self.log = folder / "drill.log"
        values: dict[str, Any] = {
            "state_dir": folder / "state",
            "database_url": database_url,
            "plugins": ["drill"],
        }
        self.settings = Settings(**values | QUICK | settings)
        self.database = Database(database_url)
        migrate(self.database)
        self.catalog = load_catalog(self.settings.plugins)
        self.process: subprocess.Popen[bytes] | None = None
        self._ever: dict[int, psutil.Process] = {}

    # -- processes ---------------------------------------------------------------------------------

    def start(self, *cards: str, flower: bool = False, wait: bool = True, model: str = "drill") -> None:
        """Run `up`; with `wait`, until every card has reported itself."""
        command = [sys.executable, "-m", "soundmill.worker", "up", "--ephemeral", "--model", model]
        command += ["--flower" if flower else "--no-flower"]
        names = cards or ("cpu:0", "cpu:1")
        command += [part for card in names for part in ("--card", card)]
        with (self.folder / "stack.log").open("ab") as output:
            self.process = subprocess.Popen(
                command, env=self.environment(), stdin=subprocess.PIPE, stdout=output, stderr=output
            )
        self._ever[self.process.pid] = psutil.Process(self.process.pid)
        if wait:
            until(
                lambda: len(self.cards()) == len(names) and all(map(self._reported, names)),
                START_S,
                self.words,
            )

    def environment(self) -> dict[str, str]:
        """What the processes are started with."""
        path = os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])])
        return os.environ | self.settings.environment() | {"PYTHONPATH": path, "DRILL_LOG": str(self.log)}

    def _reported(self, card: str) -> bool:
        processes = self.cards()
        with self.database.read() as connection:
            rows = connection.exec_driver_sql("SELECT card, pid FROM workers WHERE heartbeat_at > 0").all()
        return card in processes and (card, processes[card].pid) in {(row.card, row.pid) for row in rows}

    def words(self) -> str:
        """The last of what the processes said."""
        return (self.folder / "stack.log").read_text(errors="replace")[-6000:]

    def _family(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            found = [psutil.Process(self.process.pid)]
            found += found[0].children(recursive=True)
            self._ever |= {process.pid: process for process in found}
            return found
        return []

    def find(self, word: str) -> list[psutil.Process]:
        """The processes of the stack that have a word in their command."""
        found = []
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                if (
                    any(word in part for part in process.cmdline())
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def cards(self) -> dict[str, psutil.Process]:
        """The processes of the cards, by card."""
        found = {}
        for process in self.find("soundmill.worker.card"):
            words = process.cmdline()
            found[words[words.index("--card") + 1]] = process
        return found

    def server(self) -> psutil.Process:
        """The embedded broker's server, not its guard."""
        # The server writes its address over its arguments; its guard keeps its own.
        return next(
            p for p in self.find("-server") if not any("broker_guard" in part for part in p.cmdline())
        )

    def redis(self) -> redis.Redis:
        """A client of the broker."""
        url = running_broker_url(self.settings)
        assert url is not None
        return redis.Redis.from_url(redis_url(url))

    def kill(self, card: str = "cpu:0", number: int = signal.SIGKILL) -> None:
        """Send a signal to the process of a card."""
        self.cards()[card].send_signal(number)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = START_S) -> int:
        """End the supervisor; return its exit status."""
        assert self.process is not None
        self._family()
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None
        return status

    def left_behind(self, within_s: float = 15.0) -> list[str]:
        """The processes that this stack ever had and that are still there."""
        gone_by = time.monotonic() + within_s
        while left := [process for process in self._ever.values() if _runs(process)]:
            if time.monotonic() > gone_by:
                return [" ".join(process.cmdline()) for process in left]
            time.sleep(0.1)
        return []

    def close(self) -> None:
        """End whatever is left, hard."""
        self._family()
        for process in self._ever.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process is not None:
            self.process.wait()
            assert self.process.stdin is not None
            self.process.stdin.close()
        self.database.close()

    # -- jobs --------------------------------------------------------------------------------------

    def new(self, **options: Any) -> NewJob:
        """A drill; arguments of the drill and columns of the job by name."""
        drill = {name: options.pop(name) for name in list(options) if name in _DRILL}
        args = self.catalog.get("drill").parse(drill).model_dump()
        values: dict[str, Any] = {
            "id": str(ULID()), "tenant": "default", "batch": "drills", "custom_id": None, "kind": "drill",
            "model": "drill", "args": args, "args_version": 1, "digest": request_digest("drill", "drill", args),
            "priority": 4, "max_failures": 3,
        }  # fmt: skip
        return NewJob(**values | options)

    def submit(self, *jobs: NewJob, **options: Any) -> list[str]:
        """Accept the jobs, or one that is described by name; return the ids."""
        with self.database.write() as connection:
            answers = accept(connection, self.database, jobs or (self.new(**options),))
        return [answer.id for answer in answers]

    def submit_many(self, count: int, **options: Any) -> list[str]:
        """Accept many alike."""
        return self.submit(*(self.new(**options) for _ in range(count)))

    def job(self, job_id: str) -> JobView:
        """A job as it is now."""
        with self.database.read() as connection:
            return get_job(connection, job_id)

    def attempts(self, job_id: str) -> list[AttemptView]:
        """Its attempts that ended."""
        with self.database.read() as connection:
            return attempts_of(connection, job_id)

    def states(self, ids: Sequence[str]) -> Counter[str]:
        """How many of the jobs are in each state."""
        with self.database.read() as connection:
            query = select(Job.state, func.count()).where(Job.id.in_(ids)).group_by(Job.state)
            return Counter({row[0]: row[1] for row in connection.execute(query)})

    def cancel(self, job_id: str) -> Cancellation:
        """Cancel a job in the table; nobody is told."""
        with self.database.write() as connection:
            return cancel(connection, self.database, [job_id])

    def await_state(self, job_id: str, *states: State, timeout_s: float = SETTLE_S) -> JobView:
        """Wait until the job is in one of the states."""
        until(
            lambda: self.job(job_id).state in states, timeout_s, lambda: f"{self.job(job_id)}\n{self.words()}"
        )
        return self.job(job_id)

    def await_final(self, ids: Sequence[str], timeout_s: float = SETTLE_S) -> float:
        """Wait until all the jobs are final; return how many seconds it took."""
        begun = time.monotonic()
        until(lambda: self._all_final(ids), timeout_s, lambda: f"{self.states(ids)}\n{self.words()}")
        return time.monotonic() - begun

    def _all_final(self, ids: Sequence[str]) -> bool:
        try:
            return all(State(state).final for state in self.states(ids))
        except StorageUnavailable:
            return False

    def runs(self) -> list[tuple[str, int]]:
        """Every execution that began, as (job, attempt), seen from outside."""
        if not self.log.exists():
            return []
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [(line[0], int(line[1])) for line in lines]

    def ran(self, job_id: str) -> bool:
        """Whether an execution of the job began."""
        return any(job == job_id for job, _ in self.runs())

    # -- what always holds -------------------------------------------------------------------------

    def assert_sound(self, ids: Sequence[str], *, again: int | None = None) -> int:
        """Every job is final, once; the counters are true; return how many executions were repeated.

        Args:
            ids: All the jobs of the test.
            again: The most repetitions allowed; `None` does not look.
        """
        with self.database.read() as connection:
            states = {
                row[0]: row[1] for row in connection.execute(select(Job.id, Job.state).where(Job.id.in_(ids)))
            }
            ends = connection.execute(
                select(Attempt.job_id, func.count())
                .where(Attempt.outcome == "completed")
                .group_by(Attempt.job_id)
            )
            completions = {row[0]: row[1] for row in ends}
            counted = {
                (row["id"], state.value): row[state.value]
                for row in connection.execute(select(Batch.__table__)).mappings()
                for state in State
                if row[state.value]
            }
            query = select(Job.batch_id, Job.state, func.count()).group_by(Job.batch_id, Job.state)
            recounted = {(batch, state): count for batch, state, count in connection.execute(query)}
        assert states.keys() == set(ids)
        assert all(State(state).final for state in states.values()), Counter(states.values())
        for id_, state in states.items():
            assert completions.get(id_, 0) == (state == State.COMPLETED), (
                f"{id_} {state} {completions.get(id_)}"
            )
        assert counted == recounted
        runs = Counter(job for job, _ in self.runs())
        repeated = sum(runs[id_] - 1 for id_ in ids if runs[id_])
        assert again is None or repeated <= again, f"{repeated} executions were repeated, not {again} at most"
        return repeated


_DRILL = frozenset({"what", "steps", "step_s", "once", "text"})


def until(holds: Callable[[], object], timeout_s: float, words: Callable[[], str] = str) -> None:
    """Wait for something to hold, or fail with `words`."""
    give_up_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_at, f"it did not happen within {timeout_s} s: {words()}"
        time.sleep(0.05)


@contextlib.contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Freeze a process until the block ends."""
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def told(sentence: str, figures: Mapping[str, Any]) -> None:
    """Show figures with `pytest -s`; they are for people and nothing depends on them."""
    shown = ", ".join(
        f"{name} {figure:.3f}" if isinstance(figure, float) else f"{name} {figure}"
        for name, figure in figures.items()
    )
    sys.stdout.write(f"\n    {sentence}: {shown}\n")


__all__ = ["PLUGINS", "QUICK", "SLACK_S", "Stack", "stopped", "told", "until"]
