"""One whole installation with no-op jobs: broker, job table, one worker; and bare Celery workers beside it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import raw_celery
from servers import embedded_broker, process, until
from ulid import ULID

from soundmill.producer import Producer, Request
from soundmill.storage.broker import EmbeddedBroker
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import batch_counts
from soundmill.storage.queue import RESPONSIVE, make_app
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings
from soundmill.storage.submission import NewJob, accept, request_digest

THREADS = 32
SIDES = Path(__file__).parent
DIRECT = "direct"
"""The batch of the jobs that go into the table past the producer."""


class Stack:
    """Submits to one installation and to the bare workers beside it, and counts what was done."""

    def __init__(self, settings: Settings, broker: EmbeddedBroker, counters: Mapping[str, Path]) -> None:
        self.settings = settings
        self.broker = broker
        self.counters = counters
        self.database = Database(settings.database_url)
        self.producer = Producer(settings.model_copy(update={"broker_url": broker.url}))

    @classmethod
    @contextmanager
    def start(cls, folder: Path, database_url: str, bare: Sequence[str] = (), **more: Any) -> Iterator[Stack]:
        """Start the broker, our worker and a bare one for each queue of `bare`; stop them at the end.

        Args:
            folder: For everything that they write.
            database_url: Of an empty job table.
            bare: Queues of bare workers.
            **more: Settings.
        """
        settings = Settings(
            state_dir=folder / "state", database_url=database_url, plugins=("noop_model",), **more
        )
        counters = {queue: folder / queue for queue in bare}
        with ExitStack() as stack:
            broker = stack.enter_context(embedded_broker(settings))
            migrate(Database(database_url))
            environment = os.environ | settings.environment() | {"SOUNDMILL_BROKER_URL": broker.url}
            environment["PYTHONPATH"] = str(SIDES)
            for queue, counter in counters.items():
                counter.write_bytes(raw_celery.COUNTER.pack(0))
                raw = [str(SIDES / "raw_celery.py"), broker.url, str(counter), str(THREADS), queue]
                stack.enter_context(process([sys.executable, *raw], environment))
            ours = ["-m", "soundmill.worker", "up", "--no-flower", "--ephemeral", "--model", "noop"]
            stack.enter_context(process([sys.executable, *ours], environment))
            started = cls(settings, broker, counters)
            stack.callback(started.close)
            started.warm_up()
            yield started

    @property
    def redis_url(self) -> str:
        """The broker's address as redis-py spells it."""
        return self.broker.url.replace("redis+socket://", "unix://")

    def close(self) -> None:
        """Close the connections."""
        self.producer.close()
        self.database.close()

    def warm_up(self) -> None:
        """Wait until all sides answer."""
        self.ours(50)
        for queue in self.counters:
            self.raw(queue, 50)

    def ours(self, jobs: int) -> float:
        """Whole jobs per second, from the first submit to the last row that is completed."""
        batch = str(ULID())
        begun = time.monotonic()
        for _ in self.producer.submit_many(
            Request(model="noop", args={"number": n}, batch=batch) for n in range(jobs)
        ):
            pass
        until(lambda: self.completed(batch) >= jobs)
        return jobs / (time.monotonic() - begun)

    def completed(self, batch: str) -> int:
        """How many jobs of a batch are completed."""
        return self.count(batch, State.COMPLETED)

    def count(self, batch: str, state: State) -> int:
        """How many jobs of a batch are in a state."""
        with self.database.read() as connection:
            counts = batch_counts(connection, "default")
        return counts[batch][state] if batch in counts else 0

    def raw(self, queue: str, jobs: int) -> float:
        """Bare Celery tasks per second, from the first publish to the last count."""
        app = make_app(self.broker.url, RESPONSIVE)
        target = self._done(queue) + jobs
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
        until(lambda: self._done(queue) >= target)
        return jobs / (time.monotonic() - begun)

    def _done(self, queue: str) -> int:
        return int(raw_celery.COUNTER.unpack(self.counters[queue].read_bytes())[0])

    def fill(self, jobs: int, priority: int = 0) -> None:
        """Put jobs into the table directly, where they wait for the dispatcher."""
        for start in range(0, jobs, 10_000):
            some = [new_job("noop", priority) for _ in range(min(10_000, jobs - start))]
            with self.database.write() as connection:
                accept(connection, self.database, some)


def new_job(model: str, priority: int, parents: tuple[str, ...] = ()) -> NewJob:
    """A no-op job that passes the producer by."""
    args = {"number": 0}
    return NewJob(
        id=str(ULID()), tenant="default", batch=DIRECT, custom_id=None, kind="noop", model=model, args=args,
        args_version=1, digest=request_digest("noop", model, args), priority=priority, max_failures=3,
        parents=parents,
    )  # fmt: skip
