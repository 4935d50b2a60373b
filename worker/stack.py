"""The local stack: broker, job table, supervisor and, if wanted, Flower; run until told to stop."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from soundmill.models.device import Card
from soundmill.storage.broker import resolve_broker
from soundmill.storage.database import Database
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings

from .flower import Flower
from .metrics.host import HostMeasures
from .metrics.server import MetricsServer
from .supervisor import Supervisor

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 0.2


class Stop:
    """Set by SIGINT, SIGTERM, SIGHUP, or the end of standard input when somebody holds the other end."""

    def __init__(self, *, at_end_of_input: bool) -> None:
        # A pipe and no `threading.Event`: a signal may interrupt the very thread that waits, while it
        # holds the event's lock.
        self._reading, self._writing = os.pipe()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` ignores the end of the terminal
                signal.signal(number, lambda *_: self.set())
        if at_end_of_input:
            threading.Thread(target=self._await_end_of_input, daemon=True).start()

    def set(self) -> None:
        """Say that it is time to stop."""
        os.write(self._writing, b"\0")

    def wait(self, seconds: float) -> bool:
        """Wait, and tell whether it is time to stop."""
        return bool(select.select([self._reading], [], [], seconds)[0])

    def _await_end_of_input(self) -> None:
        # Without a standard input its number may be that of any file by now, our own pipe's too.
        while sys.__stdin__ is not None and os.read(sys.__stdin__.fileno(), 4096):
            pass
        self.set()


def run_stack(
    settings: Settings,
    *,
    cards: Sequence[Card],
    models: Sequence[str],
    flower: bool,
    ephemeral: bool,
    announce: Callable[[Flower | None], None],
) -> int:
    """Serve `models` on `cards` until stopped; return the exit status.

    Args:
        settings: Of the host.
        cards: One child is started for each.
        models: Served by every card.
        flower: Whether to run Flower.
        ephemeral: Whether to stop when standard input ends.
        announce: Called once when everything has been started.

    Raises:
        StorageError: The broker or the database cannot be used.
    """
    stop = Stop(at_end_of_input=ephemeral)
    with ExitStack() as stack:
        broker = stack.enter_context(resolve_broker(settings))
        database = Database(settings.database_url)
        stack.callback(database.close)
        migrate(database)
        measures = HostMeasures()
        if settings.metrics_port is not None:
            server = MetricsServer(
                measures.registry, address=settings.metrics_address, port=settings.metrics_port
            )
            stack.enter_context(server)
            logger.info("metrics are served", extra={"url": server.url})
        supervisor = Supervisor(settings, broker, database, cards, models, measures)
        stack.callback(supervisor.stop)
        supervisor.start()
        page = stack.enter_context(Flower(settings, broker.url)) if flower else None
        announce(page)
        while not stop.wait(WATCH_EVERY_S):
            if not supervisor.watch():
                logger.error("no card can be served; stopping")
                return 1
            if page is not None:
                page.ensure_alive()
    return 0
