"""Wake-ups straight from the submitter, so that an idle worker starts at once.

They are only a favour: whatever goes wrong here, the rows are committed and the dispatcher publishes
them. So nothing is raised, and nothing takes long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from soundmill.storage import window
from soundmill.storage.broker import running_broker_url
from soundmill.storage.errors import StorageError
from soundmill.storage.listing import paused_models, served_models
from soundmill.storage.window import Wake

if TYPE_CHECKING:
    from soundmill.storage.database import Database
    from soundmill.storage.queue import Publisher
    from soundmill.storage.settings import Settings

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 5.0
"""How long a broker that failed, or took long to be found missing, is left alone."""
QUICK_S = 0.02


class Publication:
    """Publishes what was just committed, as far as there is room. Safe between threads."""

    def __init__(self, settings: Settings, database: Callable[[], Database]) -> None:
        self._settings = settings
        self._database = database
        self._lock = threading.Lock()
        self._publisher: Publisher | None = None
        self._look_at = 0.0

    def connect(self) -> None:
        """Look for the broker. To be called before a commit: it may take half a second."""
        with self._lock:
            began = time.monotonic()
            if self._publisher is not None or began < self._look_at:
                return
            try:
                url = running_broker_url(self._settings)
            except StorageError as error:
                logger.debug("the address of the broker cannot be used", extra={"reason": str(error)})
                url = None
            if time.monotonic() - began > QUICK_S:
                self._look_at = time.monotonic() + LOOK_AGAIN_S
            if url is not None:
                # Celery is slow to import, and nobody else here needs it.
                from soundmill.storage.queue import RESPONSIVE, Publisher, make_app

                self._publisher = Publisher(make_app(url, RESPONSIVE))

    def publish(self, wakes: Sequence[Wake], models: Collection[str], first_seq: int | None) -> set[str]:
        """Put messages for available jobs on their queues, where none waits before them.

        Args:
            wakes: Jobs that were committed a moment ago.
            models: Those that the caller wants to know about, beside those of `wakes`.
            first_seq: The place of the first of them in the order of acceptance; `None` for jobs
                that are older than others, such as retried ones.

        Returns:
            Those of `models` that a live worker serves, or all of them if that is not known.
        """
        try:
            database = self._database()
            with database.read() as connection:
                served = served_models(connection, database) & set(models)
                lanes = _lanes(wakes, paused_models(connection))
                if first_seq is not None:
                    lanes = {
                        (model, priority): group
                        for (model, priority), group in lanes.items()
                        if not window.backlog_before(connection, model, priority, first_seq)
                    }
        except StorageError as error:
            logger.debug("the job table did not answer after a submit", extra={"reason": str(error)})
            return set(models)
        self._send(lanes)
        return served

    def republish(self, ids: Collection[str]) -> None:
        """Publish older jobs that may run now, such as retried ones."""
        try:
            with self._database().read() as connection:
                wakes = window.wakes_of(connection, ids)
        except StorageError as error:
            logger.debug("the job table did not answer after a retry", extra={"reason": str(error)})
            return
        if wakes:
            self.publish(wakes, (), None)

    def stop_running(self, ids: Iterable[str]) -> None:
        """Tell the workers that running jobs are cancelled; otherwise their heartbeats notice."""
        with self._lock:
            publisher = self._publisher
        if publisher is not None:
            self._tell(publisher, list(ids))

    def close(self) -> None:
        """Close the connection to the broker."""
        with self._lock:
            publisher, self._publisher = self._publisher, None
            self._look_at = float("inf")
        if publisher is not None:
            publisher.close()

    def _send(self, lanes: dict[tuple[str, int], list[Wake]]) -> None:
        with self._lock:
            publisher = self._publisher
        if publisher is None or not lanes:
            return
        try:
            chosen = self._within_room(publisher, lanes)
            if not chosen:
                return
            publisher.publish(chosen)
            # Published first: a crash in between costs a second message, never a lost one.
            database = self._database()
            with database.write() as connection:
                window.mark_published(connection, database, chosen)
        except StorageError as error:
            logger.debug("not published at submit; the dispatcher will", extra={"reason": str(error)})
            self._drop(publisher)

    def _within_room(self, publisher: Publisher, lanes: dict[tuple[str, int], list[Wake]]) -> list[Wake]:
        lengths = publisher.lengths({model for model, _ in lanes})
        room = {lane: self._settings.window_min - length for lane, length in lengths.items()}
        chosen: list[Wake] = []
        for model, priority in sorted(lanes, key=lambda lane: -lane[1]):
            group = lanes[model, priority]
            lane = group[0].lane
            some = group[: max(0, room[lane])]
            room[lane] -= len(some)
            chosen += some
        return chosen

    def _tell(self, publisher: Publisher, ids: list[str]) -> None:
        try:
            publisher.stop_running(ids)
        except StorageError as error:
            logger.debug(
                "workers were not told of a cancel; their heartbeats will", extra={"reason": str(error)}
            )
            self._drop(publisher)

    def _drop(self, publisher: Publisher) -> None:
        with self._lock:
            if self._publisher is publisher:
                self._publisher = None
                self._look_at = time.monotonic() + LOOK_AGAIN_S
        publisher.close()


def _lanes(wakes: Sequence[Wake], paused: Collection[str]) -> dict[tuple[str, int], list[Wake]]:
    lanes: dict[tuple[str, int], list[Wake]] = defaultdict(list)
    for wake in wakes:
        if wake.model not in paused:
            lanes[wake.model, wake.priority].append(wake)
    return dict(lanes)
