"""What lies in the job table and in Redis, as metrics: for a deployment, not for a process.

A look takes some milliseconds with a million rows, reads without a lock, and is kept for a second, however many
ask. What cannot be reached is told by its `_up`, and nothing else of it is said.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from soundmill.storage import backlog
from soundmill.storage.broker import running_broker_url
from soundmill.storage.broker_state import broker_state
from soundmill.storage.catalog import load_catalog
from soundmill.storage.database import Database
from soundmill.storage.errors import SettingsError, StorageError, StorageUnavailable
from soundmill.storage.listing import paused_models, workers
from soundmill.storage.queue import RESPONSIVE, Publisher, make_app
from soundmill.storage.settings import Settings

logger = logging.getLogger(__name__)

KEPT_S = 1.0
STATEMENT_MS = 5_000
SILENT_FOR_S = 86_400.0
"""A worker that fell silent longer ago is taken to be gone for good."""

Values = dict[tuple[str, ...], float]


class Exporter:
    """Looks at a deployment.

    Attributes:
        registry: Has what it sees.
    """

    def __init__(self, settings: Settings) -> None:
        """Reach for nothing yet.

        Raises:
            SettingsError: The address of the job table is of no use.
        """
        self._collector = DeploymentCollector(settings)
        self.registry = CollectorRegistry()
        self.registry.register(self._collector)

    def close(self) -> None:
        """Close the connections."""
        self._collector.close()


class DeploymentCollector(Collector):
    """Looks when it is asked; safe between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models = load_catalog(settings.plugins).ids()
        self._database = Database(settings.database_url)
        self._publisher: Publisher | None = None
        self._broker_url: str | None = None
        self._lock = threading.Lock()
        self._found: list[Metric] = []
        self._fresh_until = 0.0

    def describe(self) -> list[Metric]:
        """Nothing is looked at for the sake of the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of what can be reached."""
        with self._lock:
            if time.monotonic() > self._fresh_until:
                self._found = list(self._look())
                self._fresh_until = time.monotonic() + KEPT_S
            found = self._found
        yield from found

    def close(self) -> None:
        """Close the connections."""
        self._database.close()
        if self._publisher is not None:
            self._publisher.close()

    def _look(self) -> Iterator[Metric]:
        took: dict[tuple[str, ...], float] = {}
        parts: dict[str, Callable[[], list[Metric]]] = {
            "database": self._of_database,
            "broker": self._of_broker,
        }
        for part, look in parts.items():
            begun = time.monotonic()
            try:
                families = look()
            except (StorageError, SQLAlchemyError, OSError) as error:
                logger.warning("a part gave no metrics", extra={"part": part, "reason": type(error).__name__})
                families = []
            up = f"Whether the {part} answered the last look."
            yield _gauge(f"{part}_up", up, (), {(): float(bool(families))})
            yield from families
            took[part,] = time.monotonic() - begun
        yield from self._of_disks()
        yield _gauge("look_duration_seconds", "How long the last look took.", ("part",), took)

    # -- the job table -----------------------------------------------------------------------------

    def _of_database(self) -> list[Metric]:
        path = self._database.url.database
        if self._database.dialect == "sqlite" and not Path(path or "").is_file():
            raise StorageUnavailable("there is no job table yet")  # connecting would make an empty one
        with self._database.read() as connection:
            if self._database.dialect == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
            return [
                *self._jobs(connection),
                *self._leases(connection),
                *self._workers(connection),
                self._paused(paused_models(connection)),
            ]

    def _jobs(self, connection: Connection) -> Iterator[Metric]:
        states: Values = {(state.value,): float(n) for state, n in backlog.jobs_by_state(connection).items()}
        yield _gauge("jobs", "Jobs in the table, by state.", ("state",), states)
        now = self._database.time(connection)
        waits = dict.fromkeys(self._models, backlog.Waiting(jobs=0, since=None)) | backlog.waiting(connection)
        yield _gauge(
            "num_requests_waiting", "Jobs that may run and do not yet.", ("model",),
            {(model,): float(one.jobs) for model, one in waits.items()},
        )  # fmt: skip
        ages: Values = {
            (model,): 0.0 if w.since is None else max(now - w.since, 0.0) for model, w in waits.items()
        }
        yield _gauge("oldest_waiting_seconds", "How long the first in line has waited.", ("model",), ages)
        yield _gauge(
            "discarded_recent", f"Of the newest {backlog.NEWEST} discarded jobs, those with a reason.",
            ("model", "reason"), {key: float(n) for key, n in backlog.newest_discarded(connection).items()},
        )  # fmt: skip

    def _leases(self, connection: Connection) -> Iterator[Metric]:
        held = backlog.leases(connection, self._database)
        yield _gauge("leases_held", "Jobs that a worker holds.", (), {(): held.held})
        yield _gauge("leases_expired", "Of these, those whose lease ran out.", (), {(): held.expired})
        left_s = backlog.leadership_left_s(connection, self._database)
        words = "How long the dispatcher's lease lasts; negative since nobody leads."
        yield _gauge("leader_lease_seconds", words, (), {} if left_s is None else {(): left_s})

    def _workers(self, connection: Connection) -> Iterator[Metric]:
        known, now = workers(connection, self._database), self._database.time(connection)
        live = [worker for worker in known if worker.live]
        serving: Counter[tuple[str, ...]] = Counter({(model,): 0 for model in self._models})
        serving.update((model,) for w in live if not w.draining for model in w.models)
        yield _gauge("workers_live", "Cards that serve a model.", ("model",), serving)
        yield _gauge(
            "workers_draining", "Cards that take nothing new.", (), {(): sum(w.draining for w in live)}
        )
        # One that went by itself has said so: its heartbeat is 0.
        silent = sum(not w.live and w.heartbeat_at > now - SILENT_FOR_S for w in known)
        yield _gauge(
            "workers_silent", "Cards that were heard of within a day, and are not.", (), {(): silent}
        )

    def _paused(self, paused: Iterable[str]) -> Metric:
        values = dict.fromkeys(self._models, 0.0) | dict.fromkeys(paused, 1.0)
        return _gauge(
            "queue_paused", "Whether a model's queue stands still.", ("model",),
            {(model,): value for model, value in values.items()},
        )  # fmt: skip

    # -- Redis -------------------------------------------------------------------------------------

    def _of_broker(self) -> list[Metric]:
        url = running_broker_url(self._settings)
        if url is None:
            raise StorageUnavailable("no broker runs")
        if self._publisher is None or url != self._broker_url:  # the embedded one may have moved
            if self._publisher is not None:
                self._publisher.close()
            self._publisher, self._broker_url = Publisher(make_app(url, RESPONSIVE), breaker_s=0.0), url
        lengths = self._publisher.lengths(self._models)
        messages: Values = {(model, str(step)): float(n) for (model, step), n in lengths.items()}
        window = _gauge("queue_messages", "Messages in Redis: the window.", ("model", "step"), messages)
        try:
            state = broker_state(url)
        except SettingsError:  # by way of Sentinel, where only kombu finds it
            return [window]
        return [
            window,
            _gauge("broker_memory_used_bytes", "What the data in Redis take.", (), {(): state.used_bytes}),
            _gauge("broker_memory_max_bytes", "What they may take; 0: no limit.", (), {(): state.most_bytes}),
            _gauge("broker_clients", "Connections to Redis.", (), {(): state.clients}),
        ]

    # -- disks -------------------------------------------------------------------------------------

    def _of_disks(self) -> Iterator[Metric]:
        free: dict[tuple[str, ...], float] = {}
        size: dict[tuple[str, ...], float] = {}
        for place, folder in disks(self._settings).items():
            try:
                usage = shutil.disk_usage(folder)
            except OSError:
                continue
            free[place,], size[place,] = usage.free, usage.total
        yield _gauge("disk_free_bytes", "Free space as this process sees it.", ("place",), free)
        yield _gauge("disk_size_bytes", "The whole of that disk.", ("place",), size)


def disks(settings: Settings) -> dict[str, Path]:
    """The folders of this host that jobs fill: `state`, and `storage` where that is a folder."""
    found = {"state": settings.state_dir}
    parts = urlsplit(settings.storage_url)
    if parts.scheme == "file":
        found["storage"] = Path(unquote(parts.path))
    return found


def _gauge(name: str, words: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"soundmill_{name}", words, labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family
