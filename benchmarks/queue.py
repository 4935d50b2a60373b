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
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "sides"), str(HERE.parent)]

import raw_celery
from figures import in_turns, keep, machine, options_of, percentiles, ratios, show, spread
from servers import database_of
from sqlalchemy import select
from stack import Stack, new_job

from soundmill.producer import Request
from soundmill.storage.rows import Job
from soundmill.storage.submission import accept

BARE = (raw_celery.ACKNOWLEDGED, raw_celery.PLAIN)


def main() -> int:
    """Run what the options ask for, print a table, keep the figures."""
    options = _options()
    figures: dict[str, Any] = {"machine": machine(), "jobs": options.jobs, "rounds": options.rounds}
    for kind in options.databases.split(","):
        with ExitStack() as context:
            folder = Path(context.enter_context(tempfile.TemporaryDirectory(prefix="soundmill-bench-")))
            url = context.enter_context(database_of(kind, folder))
            stack = context.enter_context(Stack.start(folder, url, BARE))
            figures[kind] = {
                **_throughput(stack, options.rounds, options.jobs),
                "latency_idle": _latency(stack, options.samples),
                "latency_chained": _chained(stack, options.samples // 4),
            }
            if options.backlog:
                stack.fill(options.backlog)
                figures[kind]["latency_behind_backlog"] = _latency(stack, options.samples)
                figures[kind]["backlog"] = {"jobs": options.backlog}
        show(kind, figures[kind])
    if options.output:
        keep(options.output, figures)
    return 0


def _options() -> argparse.Namespace:
    parser = options_of(__doc__, jobs=2000)
    parser.add_argument("--samples", type=int, default=200, help="jobs of a latency measurement")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="jobs of lower priority; 0 for none")
    return parser.parse_args()


def _throughput(stack: Stack, rounds: int, jobs: int) -> dict[str, Any]:
    """Jobs per second of the sides, taking turns."""
    rates: dict[str, list[float]] = {"ours": [], **{queue: [] for queue in BARE}}
    for side in in_turns(list(rates), rounds):
        rates[side].append(stack.ours(jobs) if side == "ours" else stack.raw(side, jobs))
    return {
        **{f"{side}_per_s": spread(values) for side, values in rates.items()},
        **{f"ratio_to_{queue}": ratios(rates["ours"], rates[queue]) for queue in BARE},
    }


def _latency(stack: Stack, samples: int) -> dict[str, float]:
    """Submit → `wait` returns, one job at a time, in milliseconds."""
    taken = []
    for number in range(samples):
        begun = time.monotonic()
        job = stack.producer.submit(Request(model="noop", args={"number": number}, priority=9))
        stack.producer.wait(job.id, timeout_s=60)
        taken.append((time.monotonic() - begun) * 1000)
        time.sleep(0.01)
    return percentiles(taken)


def _chained(stack: Stack, samples: int) -> dict[str, float]:
    """A parent's settle → the start of its child, in milliseconds."""
    waits = []
    for _ in range(samples):
        parent = new_job("noop", 9)
        child = new_job("noop", 9, parents=(parent.id,))
        with stack.database.write() as connection:
            accept(connection, stack.database, [parent, child])
        stack.producer.wait(child.id, timeout_s=60)
        with stack.database.read() as connection:
            ended = connection.execute(select(Job.finished_at).where(Job.id == parent.id)).scalar_one()
            begun = connection.execute(select(Job.started_at).where(Job.id == child.id)).scalar_one()
        waits.append((float(begun or 0) - float(ended or 0)) * 1000)
    return percentiles(waits)


if __name__ == "__main__":
    sys.exit(main())
