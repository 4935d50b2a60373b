"""The housekeeper: the leader's slow work, which must not hold up the dispatcher and has a thread of its own.

It prunes the jobs whose time is over, where the settings say so, collects the files that nothing refers to,
and forgets workers that were not heard of for a month. Several at once do no harm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from soundmill.storage.blobs import open_blobs
from soundmill.storage.collector import Collector
from soundmill.storage.database import Database
from soundmill.storage.errors import SettingsError, StorageUnavailable
from soundmill.storage.retention import DAY_S, Policy, forget_workers, walk
from soundmill.storage.settings import Settings

logger = logging.getLogger(__name__)

FIRST_COLLECTION_S = (
    3600.0  # hosts that start and stop all the time need not list the whole storage each time
)
COLLECTED_AT_ONCE = 1000


def policy_of(settings: Settings) -> Policy:
    """What the settings keep, of all tenants."""
    return Policy(kept_s={state: days * DAY_S for state, days in settings.keep_days.items()})


class Housekeeper:
    """A thread that looks every `prune_every_s` for what is to be done, while this process leads."""

    def __init__(self, database: Database, settings: Settings, leads: Callable[[], bool]) -> None:
        self._database = database
        self._settings = settings
        self._leads = leads
        self._policy = policy_of(settings)
        self._collect_at = time.monotonic() + min(FIRST_COLLECTION_S, settings.collect_every_s)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        """Work in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the transaction that is under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.prune_every_s):
            if not self._leads():
                continue
            try:
                self.tidy()
            except StorageUnavailable as error:
                logger.info("the housekeeper waits", extra={"reason": str(error)})
            except Exception:
                logger.exception("the housekeeper failed in an unforeseen way")

    def tidy(self) -> None:
        """Do once what is due.

        Raises:
            StorageUnavailable: Table or storage did not answer. What is left is found the next time.
        """
        self._prune()
        if time.monotonic() >= self._collect_at:
            self._collect()
            self._database.retrying(lambda connection: forget_workers(connection, self._database))
            self._collect_at = time.monotonic() + self._settings.collect_every_s

    def _prune(self) -> None:
        jobs = files = 0
        begun = time.monotonic()
        for page in walk(self._database, self._policy):
            jobs, files = jobs + page.jobs, files + page.files
            # Others want to write as well: we take at most half of the time.
            if self._stopping.wait(min(time.monotonic() - begun, 1.0)):
                return
            begun = time.monotonic()
        if jobs:
            logger.info("jobs were pruned", extra={"jobs": jobs, "files": files})

    def _collect(self) -> None:
        try:
            blobs = open_blobs(self._settings)
        except SettingsError as error:
            logger.warning("no files are collected here", extra={"reason": str(error)})
            return
        strays = self._settings.collect_strays
        collector = Collector(self._database, blobs, self._settings.artifact_grace_s, strays=strays)
        deleted = size = 0
        while not self._stopping.is_set():
            done = collector.collect(limit=COLLECTED_AT_ONCE)
            deleted, size = deleted + done.deleted, size + done.bytes
            if done.finished:
                break
        if deleted:
            logger.info("files that nothing refers to were deleted", extra={"files": deleted, "bytes": size})
