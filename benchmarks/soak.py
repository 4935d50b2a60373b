"""Whether what many jobs leave behind stays flat: memory, threads, open files, tables and stored files.

    python benchmarks/soak.py --output benchmarks/results/soak.json     # 100,000 jobs, SQLite, about five minutes
    python benchmarks/soak.py --jobs 5000 --databases sqlite,postgres

No-op jobs go through one worker, in batches of ten thousand of which every twentieth job writes a file of its own.
Retention is on and quick: a job is pruned ten seconds after its end, a file collected ten seconds later, so that in
a long run nearly everything that was ever written is gone at the end. Meanwhile the processes, Redis and the job
table are looked at a hundred times. A figure is given as it was after a quarter of the jobs, when caches and pools
are full, and at the end; the slope is that of a straight line through the samples between the two, for 1,000 jobs.

PostgreSQL is a private server with fsync on, started by the tests' own fixture module.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, where `queue.py` would pass for the standard library's `queue`

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "sides"), str(HERE.parent)]

import psutil
from figures import keep, machine
from redis import Redis
from servers import database_of, until
from sqlalchemy import func, select, text
from stack import Stack

from soundmill.producer import Request
from soundmill.storage.listing import batch_counts
from soundmill.storage.rows import Artifact, Attempt, Base, Batch, Blob, Job

BACKLOG, CHUNK, BATCH, FILE_EVERY, FILE_BYTES = 4000, 1000, 10_000, 20, 2000
SAMPLES, SHOWN_EVERY = 100, 5
KEEP_S = 10.0
RETENTION = {
    "keep_days": {"completed": KEEP_S / 86400},
    "prune_every_s": 1.0,
    "max_deadline_s": KEEP_S / 2,
    "artifact_grace_s": KEEP_S,
    "collect_every_s": 5.0,
}
COUNTED = (Job, Attempt, Batch, Artifact, Blob)


def main() -> int:
    """Run what the options ask for, print a table, keep the figures."""
    options = _options()
    figures: dict[str, Any] = {"machine": machine(), "jobs": options.jobs}
    for kind in options.databases.split(","):
        with ExitStack() as context:
            folder = Path(context.enter_context(tempfile.TemporaryDirectory(prefix="soundmill-soak-")))
            url = context.enter_context(database_of(kind, folder))
            stack = context.enter_context(Stack.start(folder, url, **RETENTION))
            soak = Soak(stack, folder)
            soak.run(options.jobs)
            figures[kind] = soak.figures()
        _show(kind, figures[kind])
    if options.output:
        keep(options.output, figures)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", default="sqlite")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    return parser.parse_args()


class Soak:
    """One run on one database."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._processes = self._find_processes()
        self._redis = Redis.from_url(stack.redis_url)
        self._submitted = 0
        self._begun = time.monotonic()
        self._took_s = 0.0
        self._samples: list[dict[str, float]] = []

    def run(self, jobs: int) -> None:
        """Submit as the worker works, and look at everything in between."""
        self._begun = time.monotonic()
        self._look()
        while self._done() < jobs:
            if self._submitted < jobs and self._unfinished() < BACKLOG:
                self._submit(min(CHUNK, jobs - self._submitted))
            if self._done() >= len(self._samples) * jobs / SAMPLES:
                self._look()
            time.sleep(0.02)
        self._took_s = time.monotonic() - self._begun
        self._look()
        # The last ones are pruned and collected when their time is over.
        until(lambda: self._rows(Job) + self._rows(Blob) + self._stored() == 0, 120.0)
        self._look()

    def figures(self) -> dict[str, Any]:
        """What was seen: how it stood after a quarter and at the end, and how it changed in between."""
        jobs = self._submitted
        during = self._samples[:-1]
        settled = [sample for sample in during if sample["jobs"] >= jobs / 4]
        names = [name for name in self._samples[0] if name not in ("jobs", "seconds")]
        return {
            "seconds": round(self._took_s, 1),
            "jobs_per_s": round(jobs / self._took_s, 1),
            "kept_s": KEEP_S,
            "figures": {
                name: {
                    "first": self._samples[0][name],
                    "after_a_quarter": settled[0][name],
                    "at_the_end": settled[-1][name],
                    "most": max(sample[name] for sample in during),
                    "when_all_is_pruned": self._samples[-1][name],
                    "slope_per_1000_jobs": _slope(settled, name),
                }
                for name in names
            },
            "samples": [*self._samples[::SHOWN_EVERY], self._samples[-1]],
        }

    def _find_processes(self) -> dict[str, psutil.Process]:
        family = psutil.Process().children(recursive=True)
        commands = {process: " ".join(process.cmdline()) for process in family}
        [supervisor] = [process for process, words in commands.items() if "soundmill.worker up" in words]
        [worker] = [process for process, words in commands.items() if "soundmill.worker.card" in words]
        server = psutil.Process(int(Redis.from_url(self._stack.redis_url).info("server")["process_id"]))
        return {"worker": worker, "supervisor": supervisor, "redis": server, "producer": psutil.Process()}

    def _submit(self, count: int) -> None:
        requests = (
            Request(
                model="noop",
                args={"number": number, "size": FILE_BYTES if number % FILE_EVERY == 0 else 0},
                batch=f"soak-{number // BATCH}",
            )
            for number in range(self._submitted, self._submitted + count)
        )
        for _ in self._stack.producer.submit_many(requests):
            pass
        self._submitted += count

    def _unfinished(self) -> int:
        with self._stack.database.read() as connection:
            counts = batch_counts(connection, "default")
        return sum(count for batch in counts.values() for state, count in batch.items() if not state.final)

    def _done(self) -> int:
        return self._submitted - self._unfinished()

    def _look(self) -> None:
        """Take a sample."""
        sample = {"seconds": round(time.monotonic() - self._begun, 1), "jobs": float(self._done())}
        for name, process in self._processes.items():
            memory = process.memory_info()
            sample[f"{name}_mb"] = round(memory.rss / 1e6, 2)
            sample[f"{name}_threads"] = process.num_threads()
            sample[f"{name}_open_files"] = process.num_fds()
        sample["redis_data_mb"] = round(self._redis.info("memory")["used_memory"] / 1e6, 2)
        sample["tables_mb"] = round(self._table_bytes() / 1e6, 2)
        for table in COUNTED:
            sample[f"{table.__tablename__}_rows"] = self._rows(table)
        sample["stored_files"] = self._stored()
        self._samples.append(sample)

    def _stored(self) -> int:
        return sum(path.is_file() for path in self._folder.glob("state/artifacts/??/*"))

    def _rows(self, table: type[Base]) -> int:
        with self._stack.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    def _table_bytes(self) -> int:
        if self._stack.database.dialect == "sqlite":
            return sum(path.stat().st_size for path in self._folder.glob("jobs.db*"))
        with self._stack.database.read() as connection:
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


def _slope(samples: Sequence[dict[str, float]], name: str) -> float:
    """How much a figure grows with 1,000 jobs, by least squares."""
    if len(samples) < 2 or samples[0]["jobs"] == samples[-1]["jobs"]:
        return 0.0
    line = statistics.linear_regression([s["jobs"] / 1000 for s in samples], [s[name] for s in samples])
    return round(line.slope, 4)


def _show(kind: str, found: dict[str, Any]) -> None:
    print(f"\n{kind}: {found['seconds']} s, {found['jobs_per_s']} jobs/s", flush=True)
    print(f"  {'':24}{'first':>10}{'1/4':>10}{'end':>10}{'most':>10}{'pruned':>10}{'slope/1000':>12}")
    for name, value in found["figures"].items():
        shown = [
            value[key] for key in ("first", "after_a_quarter", "at_the_end", "most", "when_all_is_pruned")
        ]
        print(
            f"  {name:24}"
            + "".join(f"{number:>10g}" for number in shown)
            + f"{value['slope_per_1000_jobs']:>12g}"
        )


if __name__ == "__main__":
    sys.exit(main())
