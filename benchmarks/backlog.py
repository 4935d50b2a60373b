"""Whether a long backlog slows the queue down: the whole path behind 1,000 rows and behind 1,000,000.

    python benchmarks/backlog.py                      # SQLite and PostgreSQL, about ten minutes
    python benchmarks/backlog.py --databases sqlite --long 100000

Two installations, each with a broker, a job table and a worker of its own, differ only in how many
no-op jobs wait. They take turns: one is topped up to its backlog and works, the other is paused. A
round counts the jobs that are completed in a second, once the first hundred are, until `--jobs` are;
the backlog never falls below its length. Then: what Redis holds while the long backlog waits.

PostgreSQL is a private server with fsync on, started by the tests' own fixture module.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, where `queue.py` would pass for the standard library's `queue`

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "sides"), str(HERE.parent)]

from figures import in_turns, keep, machine, options_of, ratios, show, spread
from redis import Redis
from servers import database_of, until
from stack import DIRECT, Stack

from soundmill.storage.lifecycle import State

RUN_UP = 100
"""Jobs before the clock starts: the queue has just been released."""


def main() -> int:
    """Run what the options ask for, print a table, keep the figures."""
    options = _options()
    figures: dict[str, Any] = {
        "machine": machine(),
        "backlogs": {"short": options.short, "long": options.long},
        "jobs": options.jobs,
        "rounds": options.rounds,
    }
    for kind in options.databases.split(","):
        figures[kind] = _measure(kind, options)
        show(kind, figures[kind])
        print(f"  Redis holds {figures[kind]['redis']['used_mb']:.1f} MB beside the long backlog", flush=True)
    if options.output:
        keep(options.output, figures)
    return 0


def _options() -> argparse.Namespace:
    parser = options_of(__doc__, jobs=2000, rounds=6)
    parser.add_argument("--short", type=int, default=1000)
    parser.add_argument("--long", type=int, default=1_000_000)
    return parser.parse_args()


def _measure(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    lengths = {"short": options.short, "long": options.long}
    rates: dict[str, list[float]] = {side: [] for side in lengths}
    with ExitStack() as context:
        stacks = {}
        for side in lengths:
            folder = Path(context.enter_context(tempfile.TemporaryDirectory(prefix="soundmill-bench-")))
            url = context.enter_context(database_of(kind, folder))
            stacks[side] = context.enter_context(Stack.start(folder, url))
            stacks[side].producer.pause("noop")
        for side in in_turns(list(lengths), options.rounds):
            rates[side].append(_round(stacks[side], lengths[side], options.jobs))
        memory = Redis.from_url(stacks["long"].redis_url).info("memory")
    return {
        **{f"{side}_per_s": spread(values) for side, values in rates.items()},
        "ratio_of_long_to_short": ratios(rates["long"], rates["short"]),
        "redis": {
            "used_mb": round(memory["used_memory"] / 1e6, 1),
            "peak_mb": round(memory["used_memory_peak"] / 1e6, 1),
        },
    }


def _round(stack: Stack, backlog: int, jobs: int) -> float:
    """Jobs per second of a queue that is released until `jobs` are completed."""
    stack.fill(max(0, backlog + jobs + 2 * RUN_UP - stack.count(DIRECT, State.AVAILABLE)))
    before = stack.completed(DIRECT)
    stack.producer.resume("noop")
    until(lambda: stack.completed(DIRECT) >= before + RUN_UP)
    done, begun = stack.completed(DIRECT), time.monotonic()
    until(lambda: stack.completed(DIRECT) >= done + jobs)
    rate = (stack.completed(DIRECT) - done) / (time.monotonic() - begun)
    stack.producer.pause("noop")
    until(lambda: stack.count(DIRECT, State.EXECUTING) == 0)
    return rate


if __name__ == "__main__":
    sys.exit(main())
