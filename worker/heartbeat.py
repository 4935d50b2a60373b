"""The heartbeat: renews the leases of a card, reports the worker, and hears of what it missed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, select

from soundmill.storage.database import Database
from soundmill.storage.errors import StorageUnavailable
from soundmill.storage.leases import keep
from soundmill.storage.rows import Worker
from soundmill.storage.submission import upsert

from .attempt import Attempts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a card's process is.

    Attributes:
        name: `<card>@<host>`: the same after a restart, and the name in Flower.
        incarnation: The name and what tells this process from the one before.
    """

    name: str
    incarnation: str
    host: str
    card: str
    models: tuple[str, ...]
    slots: int


class Heartbeat:
    """A thread that beats every `every_s` until it is stopped.

    While the database is away it tries again every second, so that short outages cost no lease.
    """

    def __init__(
        self,
        database: Database,
        identity: Identity,
        attempts: Attempts,
        *,
        every_s: float,
        lease_s: float,
        on_draining: Callable[[bool], None],
    ) -> None:
        self._database = database
        self._identity = identity
        self._attempts = attempts
        self._every_s, self._lease_s = every_s, lease_s
        self._on_draining = on_draining
        self._started_at = time.time()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Report the worker once, then beat in the background.

        Raises:
            StorageUnavailable: The database did not take the first report.
        """
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating, and report the worker gone."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        try:
            with self._database.write() as connection:
                self._report(connection, heartbeat_at=0.0)
        except StorageUnavailable:
            logger.info("the worker could not report that it is gone")

    def beat(self) -> bool:
        """Renew what is held, drop what is lost, and learn of cancellations and draining.

        Returns:
            Whether everything that is held was renewed; somebody else may have a row just now.

        Raises:
            StorageUnavailable: The database did not answer.
        """
        held = self._attempts.renewable()
        with self._database.write() as connection:
            self._report(connection)
            draining = connection.execute(
                select(Worker.draining).where(Worker.name == self._identity.name)
            ).scalar_one()
            kept = keep(
                connection, self._database, held, worker=self._identity.incarnation, lease_s=self._lease_s
            ) if held else None  # fmt: skip
        if kept is not None:
            # An attempt that settled meanwhile is not in our books any more; stopping it does nothing.
            self._attempts.lose(held.keys() - kept.held)
            self._attempts.cancel(kept.cancelled)
        self._on_draining(bool(draining))
        return kept is None or not kept.locked

    def _report(self, connection: Connection, heartbeat_at: float | None = None) -> None:
        me = self._identity
        now = self._database.time(connection) if heartbeat_at is None else heartbeat_at
        values = {
            "name": me.name, "incarnation": me.incarnation, "host": me.host, "card": me.card,
            "pid": os.getpid(), "models": list(me.models), "slots": me.slots,
            "started_at": self._started_at, "heartbeat_at": now,
        }  # fmt: skip
        connection.execute(upsert(self._database, Worker, values, keys=("name",)))

    def _beat_until_stopped(self) -> None:
        pause = self._every_s
        while not self._stopping.wait(pause):
            try:
                # Once a row is free again, its lease may be over: then we have to be before the reaper.
                pause = self._every_s if self.beat() else self._every_s / 3
            except StorageUnavailable:
                logger.warning("a heartbeat found no database; trying again")
                pause = min(1.0, self._every_s)
            except Exception:
                logger.exception("a heartbeat failed in an unforeseen way")
                pause = min(1.0, self._every_s)
