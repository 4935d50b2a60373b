"""How much of raw Celery's speed the whole path of a job keeps, and how long a job waits.

    python benchmarks/queue.py                       # SQLite and PostgreSQL, about five minutes
    python benchmarks/queue.py --databases sqlite --rounds 5 --jobs 2000

Throughput: no-op jobs through row, message, claim, perform and settle with one worker, 32 in
flight, beside bare Celery tasks with the same pool, broker and events. The bare tasks run twice:
acknowledged as Celery does it on Redis by default, and plain, without that, as our worker's own
messages are. The sides take turns in one run; the ratio of each round is what counts, the median and
the spread are printed. Latency: submit → `wait` returns, on an idle stack and behind a backlog of jobs of lower
priority; a parent's settle → its child's start.

PostgreSQL is a private server with fsync on, started by the tests' own fixture module.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, where this very file would pass for the standard library's `queue`

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "sides"), str(HERE.parent)]

import raw_celery
from sqlalchemy import create_engine, select, text
from ulid import ULID

from soundmill.producer import Producer, Request
from soundmill.storage.broker import EmbeddedBroker
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import batch_counts
from soundmill.storage.queue import RESPONSIVE, make_app
from soundmill.storage.rows import Job
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings
from soundmill.storage.submission import NewJob, accept, request_digest

THREADS = 32
LIMIT_S = 300.0


def main() -> int:
    """Run what the options ask for, print a table, keep the figures."""
    options = _options()
    figures: dict[str, Any] = {"cpus": os.cpu_count(), "jobs": options.jobs, "rounds": options.rounds}
    for kind in options.databases.split(","):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soundmill-bench-")))
            url = f"sqlite:///{folder}/jobs.db" if kind == "sqlite" else stack.enter_context(_postgres())
            bench = stack.enter_context(Bench.start(folder, url))
            figures[kind] = {
                "throughput": bench.throughput(options.rounds, options.jobs),
                "latency_idle": bench.latency(options.samples),
                "latency_chained": bench.chained(options.samples // 4),
            }
            if options.backlog:
                bench.fill_backlog(options.backlog)
                figures[kind]["latency_behind_backlog"] = bench.latency(options.samples)
                figures[kind]["backlog"] = options.backlog
        _show(kind, figures[kind])
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", default="sqlite,postgres")
    parser.add_argument("--rounds", type=int, default=5, help="how often the sides take turns")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of each side in a round")
    parser.add_argument("--samples", type=int, default=200, help="jobs of a latency measurement")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="jobs of lower priority; 0 for none")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    return parser.parse_args()


class Bench:
    """Both sides on one broker."""

    def __init__(self, settings: Settings, broker: EmbeddedBroker, counters: dict[str, Path]) -> None:
        self.settings = settings
        self.broker = broker
        self.counters = counters
        self.database = Database(settings.database_url)
        self.producer = Producer(settings.model_copy(update={"broker_url": broker.url}))

    @classmethod
    @contextmanager
    def start(cls, folder: Path, database_url: str) -> Iterator[Bench]:
        """Start the broker, our stack and the bare workers; stop them at the end."""
        settings = Settings(state_dir=folder / "state", database_url=database_url, plugins=("noop_model",))
        counters = {queue: folder / queue for queue in (raw_celery.ACKNOWLEDGED, raw_celery.PLAIN)}
        with ExitStack() as stack:
            broker = EmbeddedBroker(settings)
            broker.join_or_own()
            stack.callback(broker.close)
            migrate(Database(database_url))
            environment = os.environ | settings.environment() | {"SOUNDMILL_BROKER_URL": broker.url}
            environment["PYTHONPATH"] = str(HERE / "sides")
            bare = [sys.executable, str(HERE / "sides/raw_celery.py"), broker.url]
            for queue, counter in counters.items():
                counter.write_bytes(raw_celery.COUNTER.pack(0))
                stack.enter_context(_process([*bare, str(counter), str(THREADS), queue], environment))
            ours = [
                sys.executable,
                "-m",
                "soundmill.worker",
                "up",
                "--no-flower",
                "--ephemeral",
                "--model",
                "noop",
            ]
            stack.enter_context(_process(ours, environment))
            bench = cls(settings, broker, counters)
            stack.callback(bench.producer.close)
            bench.warm_up()
            yield bench

    def warm_up(self) -> None:
        """Wait until all sides answer."""
        self.ours(50)
        for queue in self.counters:
            self.raw(queue, 50)

    def throughput(self, rounds: int, jobs: int) -> dict[str, Any]:
        """Jobs per second of the sides, taking turns."""
        rates: dict[str, list[float]] = {"ours": [], **{queue: [] for queue in self.counters}}
        for number in range(rounds):
            order = list(rates)
            for side in order[number % 3 :] + order[: number % 3]:
                rates[side].append(self.ours(jobs) if side == "ours" else self.raw(side, jobs))
        figures = {f"{side}_per_s": _spread(values) for side, values in rates.items()}
        for queue in self.counters:
            ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates[queue], strict=True)]
            figures[f"ratio_to_{queue}"] = _spread(ratios)
        return figures

    def raw(self, queue: str, jobs: int) -> float:
        """Bare Celery tasks per second, from the first publish to the last count."""
        app = make_app(self.broker.url, RESPONSIVE)
        target = self._count(queue) + jobs
        begun = time.monotonic()
        with app.connection_for_write() as connection:
            producer = app.amqp.Producer(connection, auto_declare=False)
            with producer.batch(1000):
                for _ in range(jobs):
                    id_ = str(ULID())
                    message = app.amqp.as_task_v2(id_, raw_celery.TASK, args=(id_,), ignore_result=True)
                    producer.publish(
                        message.body, exchange="", routing_key=queue, serializer="json",
                        headers=message.headers, **message.properties,
                    )  # fmt: skip
        _until(lambda: self._count(queue) >= target)
        return jobs / (time.monotonic() - begun)

    def _count(self, queue: str) -> int:
        return int(raw_celery.COUNTER.unpack(self.counters[queue].read_bytes())[0])

    def ours(self, jobs: int) -> float:
        """Whole jobs per second, from the first submit to the last row that is completed."""
        batch = str(ULID())
        begun = time.monotonic()
        for _ in self.producer.submit_many(
            Request(model="noop", args={"number": n}, batch=batch) for n in range(jobs)
        ):
            pass
        _until(lambda: self._completed(batch) >= jobs)
        return jobs / (time.monotonic() - begun)

    def _completed(self, batch: str) -> int:
        with self.database.read() as connection:
            return batch_counts(connection)[batch][State.COMPLETED]

    def latency(self, samples: int) -> dict[str, float]:
        """Submit → `wait` returns, one job at a time, in milliseconds."""
        taken = []
        for number in range(samples):
            begun = time.monotonic()
            job = self.producer.submit(Request(model="noop", args={"number": number}, priority=9))
            self.producer.wait(job.id, timeout_s=60)
            taken.append((time.monotonic() - begun) * 1000)
            time.sleep(0.01)
        return _percentiles(taken)

    def chained(self, samples: int) -> dict[str, float]:
        """A parent's settle → the start of its child, in milliseconds."""
        waits = []
        for _ in range(samples):
            parent, child = self._pair()
            with self.database.write() as connection:
                accept(connection, self.database, [parent, child])
            self.producer.wait(child.id, timeout_s=60)
            with self.database.read() as connection:
                ended = connection.execute(select(Job.finished_at).where(Job.id == parent.id)).scalar_one()
                begun = connection.execute(select(Job.started_at).where(Job.id == child.id)).scalar_one()
            waits.append((float(begun or 0) - float(ended or 0)) * 1000)
        return _percentiles(waits)

    def _pair(self) -> tuple[NewJob, NewJob]:
        parent = _new_job("noop", 9)
        return parent, _new_job("noop", 9, parents=(parent.id,))

    def fill_backlog(self, jobs: int) -> None:
        """Lower-priority jobs of the measured queue that wait while it stands still for them.

        They are of the same model, at priority 0, scheduled into the table directly.
        """
        for start in range(0, jobs, 10_000):
            with self.database.write() as connection:
                accept(
                    connection, self.database, [_new_job("noop", 0) for _ in range(min(10_000, jobs - start))]
                )


def _new_job(model: str, priority: int, parents: tuple[str, ...] = ()) -> NewJob:
    args = {"number": 0}
    return NewJob(
        id=str(ULID()), tenant="default", batch="direct", custom_id=None, kind="noop", model=model, args=args,
        args_version=1, digest=request_digest("noop", model, args), priority=priority, max_failures=3,
        parents=parents,
    )  # fmt: skip


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _postgres() -> Iterator[str]:
    from tests.postgres import PostgresServer

    server = PostgresServer.launch()
    try:
        engine = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET fsync = on"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield server.url(server.create_database())
    finally:
        server.close()


def _until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT_S
    while not done():
        if time.monotonic() > limit:
            raise SystemExit(f"nothing more happened within {LIMIT_S:g} s")
        time.sleep(0.02)


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _percentiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {"p50_ms": cuts[49], "p99_ms": cuts[98], "most_ms": max(values)}


def _show(kind: str, figures: dict[str, Any]) -> None:
    print(f"\n{kind}")
    for name, value in figures["throughput"].items():
        print(f"  {name:24} {value['median']:8.2f}   ({value['least']:.2f} … {value['most']:.2f})")
    for name in ("latency_idle", "latency_chained", "latency_behind_backlog"):
        if name in figures:
            value = figures[name]
            print(
                f"  {name:24} p50 {value['p50_ms']:.1f} ms   p99 {value['p99_ms']:.1f} ms   most {value['most_ms']:.1f} ms"
            )


if __name__ == "__main__":
    sys.exit(main())
