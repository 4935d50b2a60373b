"""How many jobs a second one process submits, beside Celery's own `apply_async`.

    python benchmarks/submit.py                      # SQLite and PostgreSQL, 100,000 jobs of each side
    python benchmarks/submit.py --databases sqlite --rounds 5 --jobs 2000

Ours is `Producer.submit_many` of speech jobs with distinct texts in one batch, and the same with an
idempotency key for each job, as a manifest has them. Every job is checked against the catalogue and
its row committed, with fsync, before it counts. Celery's is `apply_async` of a task with the same
arguments: one application with its pool of connections, no sent events, no results. It checks nothing,
and keeps nothing but a message in Redis. The sides take turns; the ratio of each round is what counts.

PostgreSQL is a private server with fsync on, started by the tests' own fixture module.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, where `queue.py` would pass for the standard library's `queue`

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "sides"), str(HERE.parent)]

from celery import Celery
from figures import in_turns, keep, machine, options_of, ratios, show, spread
from redis import Redis
from servers import database_of, embedded_broker
from ulid import ULID

from soundmill.producer import Producer, Request
from soundmill.storage.settings import Settings

QUEUE = "bare"


def main() -> int:
    """Run what the options ask for, print a table, keep the figures."""
    options = _options()
    figures: dict[str, Any] = {"machine": machine(), "jobs": options.jobs, "rounds": options.rounds}
    for kind in options.databases.split(","):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soundmill-bench-")))
            url = stack.enter_context(database_of(kind, folder))
            settings = Settings(state_dir=folder / "state", database_url=url)
            broker = stack.enter_context(embedded_broker(settings))
            bench = stack.enter_context(Bench(settings, broker.url))
            figures[kind] = bench.run(options.rounds, options.jobs)
        show(kind, figures[kind])
    if options.output:
        keep(options.output, figures)
    return 0


def _options() -> argparse.Namespace:
    return options_of(__doc__, jobs=100_000).parse_args()


class Bench:
    """Both sides on one broker. A context manager."""

    def __init__(self, settings: Settings, broker_url: str) -> None:
        self._producer = Producer(settings.model_copy(update={"broker_url": broker_url}))
        self._app = Celery("bare", broker=broker_url, set_as_current=False)
        # The last two are Celery's defaults: written down, as they decide what is measured.
        self._app.conf.update(task_ignore_result=True, task_send_sent_event=False, task_serializer="json")
        self._speak = self._app.task(name="speak")(_speak)

    def __enter__(self) -> Self:
        for side in ("ours", "keyed", "celery"):
            self._measure(side, 1000)
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close()
        self._app.close()

    def run(self, rounds: int, jobs: int) -> dict[str, Any]:
        """Jobs per second of the sides, taking turns."""
        rates: dict[str, list[float]] = {"ours": [], "keyed": [], "celery": []}
        for side in in_turns(list(rates), rounds):
            rates[side].append(self._measure(side, jobs))
        return {
            **{f"{side}_per_s": spread(values) for side, values in rates.items()},
            "ratio_to_celery": ratios(rates["ours"], rates["celery"]),
            "ratio_of_keyed_to_celery": ratios(rates["keyed"], rates["celery"]),
        }

    def _measure(self, side: str, jobs: int) -> float:
        """Jobs per second, from the first to the last that is accepted."""
        batch = str(ULID())
        begun = time.monotonic()
        if side == "celery":
            self._publish(jobs)
        else:
            requests = _requests(batch, jobs, keyed=side == "keyed")
            accepted = sum(item.fresh for item in self._producer.submit_many(requests))
            if accepted != jobs:
                raise SystemExit(f"only {accepted} of {jobs} jobs were accepted")
        taken_s = time.monotonic() - begun
        if side == "celery":
            self._empty_queue(jobs)
        return jobs / taken_s

    def _publish(self, jobs: int) -> None:
        for number in range(jobs):
            self._speak.apply_async(kwargs=_arguments(number), queue=QUEUE, ignore_result=True)

    def _empty_queue(self, jobs: int) -> None:
        with self._app.connection_for_write() as connection:
            client: Redis = connection.default_channel.client
            if client.llen(QUEUE) != jobs:
                raise SystemExit("not every message of Celery arrived")
            client.delete(QUEUE)


def _speak(**_: object) -> None:
    raise AssertionError("nobody consumes here")


def _arguments(number: int) -> dict[str, Any]:
    text = f"This is sentence number {number} of a book that is read aloud, line by line."
    return {"text": text, "language": "en-us", "speed": 1.1}


def _requests(batch: str, jobs: int, *, keyed: bool) -> Iterator[Request]:
    for number in range(jobs):
        key = f"{batch}/{number}" if keyed else None
        yield Request(model="espeak-ng", args=_arguments(number), batch=batch, idempotency_key=key)


if __name__ == "__main__":
    sys.exit(main())
