"""The same no-op jobs on other queues, for the record: ours, bare Celery, Dramatiq and RQ.

    python benchmarks/peers.py                       # SQLite and PostgreSQL, about five minutes
    python benchmarks/peers.py --databases sqlite --rounds 5 --jobs 1000

One worker process each, on one Redis, taking turns; a rate counts from the first message sent to the
last job done. They do not promise the same, so a rate alone says little:

- ours keeps a row for every job: validated, counted, with its attempts, leases that tell a dead worker,
  exactly one visible outcome, cancelling, priorities. 32 jobs in flight.
- bare Celery with its acknowledgements (`acknowledged`) repeats a message whose worker died, after an
  hour; without them (`plain`) it is lost. No results are kept. 32 threads.
- Dramatiq acknowledges, retries and repeats the messages of a dead worker after a minute. No results and
  no rows: what became of a message is not told. 32 threads.
- RQ keeps a job as a hash in Redis while it waits, here without its result. Its worker has no threads and
  does one job at a time, here in its own process; the usual one forks for each job and is slower.

Dramatiq and RQ are installed into an environment of their own, `build/peers`, by the first run.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, where `queue.py` would pass for the standard library's `queue`

import argparse
import os
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
SIDES = HERE / "sides"
sys.path[:0] = [str(SIDES), str(HERE.parent)]

import raw_celery
from figures import in_turns, keep, machine, options_of, ratios, show, spread
from servers import database_of, process, until
from stack import THREADS, Stack

ENVIRONMENT = HERE.parent / "build" / "peers"
NEEDS = ("dramatiq[redis]>=2,<3", "rq>=2.6,<3", "hiredis>=3.2,<4")
PEERS = ("dramatiq", "rq")
BARE = (raw_celery.ACKNOWLEDGED, raw_celery.PLAIN)


def main() -> int:
    """Run what the options ask for, print a table, keep the figures."""
    options = _options()
    python = _environment()
    figures: dict[str, Any] = {
        "machine": machine(),
        "peers": _versions(python),
        "jobs": options.jobs,
        "rounds": options.rounds,
    }
    for kind in options.databases.split(","):
        with ExitStack() as context:
            folder = Path(context.enter_context(tempfile.TemporaryDirectory(prefix="soundmill-bench-")))
            url = context.enter_context(database_of(kind, folder))
            stack = context.enter_context(Stack.start(folder, url, BARE))
            peers = {
                name: context.enter_context(Peer.start(name, python, stack.redis_url, folder))
                for name in PEERS
            }
            figures[kind] = _measure(stack, peers, options.rounds, options.jobs)
        show(kind, figures[kind])
    if options.output:
        keep(options.output, figures)
    return 0


def _options() -> argparse.Namespace:
    return options_of(__doc__, jobs=2000).parse_args()


def _environment() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *NEEDS], check=True)
    return python


def _versions(python: Path) -> dict[str, str]:
    code = "from importlib.metadata import version as v; print(v('dramatiq'), v('rq'), v('redis'))"
    words = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(("dramatiq", "rq", "redis"), words, strict=True))


def _measure(stack: Stack, peers: dict[str, Peer], rounds: int, jobs: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {side: [] for side in ("ours", *BARE, *PEERS)}
    for side in in_turns(list(rates), rounds):
        if side in peers:
            rates[side].append(peers[side].rate(jobs))
        else:
            rates[side].append(stack.ours(jobs) if side == "ours" else stack.raw(side, jobs))
    return {
        **{f"{side}_per_s": spread(values) for side, values in rates.items()},
        **{f"ours_to_{side}": ratios(rates["ours"], rates[side]) for side in (*BARE, *PEERS)},
    }


class Peer:
    """Another queue: a process that works and one that sends."""

    def __init__(self, counter: Path, orders: IO[str]) -> None:
        self._counter = counter
        self._orders = orders

    @classmethod
    @contextmanager
    def start(cls, name: str, python: Path, redis_url: str, folder: Path) -> Iterator[Peer]:
        """Start both processes; stop them at the end."""
        counter = folder / name
        counter.write_bytes(raw_celery.COUNTER.pack(0))
        environment = {**os.environ, "PYTHONPATH": str(SIDES)}

        def command(part: str) -> list[str]:
            return [str(python), str(SIDES / "peer.py"), name, part, redis_url, str(counter), str(THREADS)]

        with process(command("work"), environment), process(command("send"), environment) as sender:
            assert sender.stdin is not None
            peer = cls(counter, sender.stdin)
            peer.rate(50)
            yield peer

    def rate(self, jobs: int) -> float:
        """Jobs per second, from the first message sent to the last job done."""
        target = self._done() + jobs
        begun = time.monotonic()
        self._orders.write(f"{jobs}\n")
        self._orders.flush()
        until(lambda: self._done() >= target)
        return jobs / (time.monotonic() - begun)

    def _done(self) -> int:
        return int(raw_celery.COUNTER.unpack(self._counter.read_bytes())[0])


if __name__ == "__main__":
    sys.exit(main())
