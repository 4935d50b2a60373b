"""One thread that watches the job table for everybody who waits in this process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soundmill.storage.errors import NotFound, StorageUnavailable

from . import lookup

if TYPE_CHECKING:
    from soundmill.storage.database import Database
    from soundmill.storage.listing import JobView

logger = logging.getLogger(__name__)

SHORTEST_S = 0.02
LONGEST_S = 0.25
QUIET_ROUNDS = 4
"""So often it is asked at the shortest interval before the interval grows: a short job is seen at once."""
GROWTH = 1.3

Outcome = Mapping[str, "JobView"] | Exception
Deliver = Callable[[Outcome], None]


class Waiter:
    """Somebody who waits for all of some jobs to be final.

    Attributes:
        pending: The ids that are not final yet, as far as the watcher knows.
    """

    def __init__(self, ids: Iterable[str], deliver: Deliver) -> None:
        """Wait for `ids`.

        Args:
            ids: The jobs.
            deliver: Called once, in the watcher's thread, with the jobs by id or an exception; it
                must not block.
        """
        self.pending = set(ids)
        self.done: dict[str, JobView] = {}
        self.deliver = deliver


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked at one look, and who wants to know that it took place."""

    ids: set[str]
    unseen: set[str]
    curious: list[Callable[[], None]]


class Watcher:
    """Asks once per interval for all waiters together, however many they are.

    The interval is 20 ms after something happened and grows to 250 ms while nothing does. An outage
    of the job table is waited out.
    """

    def __init__(self, database: Callable[[], Database], tenant: str) -> None:
        self._database = database
        self._tenant = tenant
        self._changed = threading.Condition()
        self._waiters: dict[str, set[Waiter]] = {}
        self._unseen: set[str] = set()
        self._curious: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, *waiters: Waiter) -> None:
        """Begin to watch for waiters."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the producer is closed")
            for waiter in waiters:
                self._unseen |= waiter.pending
                for job_id in waiter.pending:
                    self._waiters.setdefault(job_id, set()).add(waiter)
            self._wake()

    def after_look(self, tell: Callable[[], None]) -> None:
        """Call `tell` once the table has been looked at from now on, or has not answered.

        It is called in the watcher's thread, after what was found has been delivered, and must not
        block. Whoever gives up waiting asks for this, so that no job that was final in time is missed
        because the thread had no turn; all who do so at the same moment share one look.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the producer is closed")
            self._curious.append(tell)
            self._wake()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="soundmill-watcher", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def remove(self, *waiters: Waiter) -> None:
        """Forget waiters; nothing is asked for them from now on."""
        with self._changed:
            for waiter in waiters:
                self._forget(waiter)

    @property
    def watched(self) -> int:
        """How many jobs are waited for."""
        with self._changed:
            return len(self._waiters)

    def close(self) -> None:
        """Stop the thread. Those who still wait get an exception."""
        with self._changed:
            self._closed = True
            left = {waiter for waiters in self._waiters.values() for waiter in waiters}
            self._waiters.clear()
            curious, self._curious = self._curious, []
            self._changed.notify_all()
        for waiter in left:
            waiter.deliver(RuntimeError("the producer was closed while somebody waited"))
        for tell in curious:
            tell()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        interval_s, quiet = SHORTEST_S, 0
        while (question := self._next_question()) is not None:
            began = time.monotonic()
            answered = self._look(question)
            for tell in question.curious:
                tell()
            quiet = 0 if answered or question.unseen else quiet + 1
            interval_s = SHORTEST_S if quiet < QUIET_ROUNDS else min(LONGEST_S, interval_s * GROWTH)
            # A slow table, or very many jobs, are not asked all the time.
            self._pause(max(interval_s, 2 * (time.monotonic() - began)))

    def _next_question(self) -> _Question | None:
        with self._changed:
            while not self._waiters and not self._curious and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            unseen, self._unseen = self._unseen & self._waiters.keys(), set()
            curious, self._curious = self._curious, []
            return _Question(ids=set(self._waiters), unseen=unseen, curious=curious)

    def _look(self, question: _Question) -> bool:
        """Ask, and deliver what is found; return whether that was anything."""
        if not question.ids:
            return False
        try:
            return self._answer(question.ids, question.unseen)
        except StorageUnavailable as error:
            logger.debug("the job table does not answer; waiting goes on", extra={"reason": str(error)})
            with self._changed:
                self._unseen |= question.unseen & self._waiters.keys()
            return False
        except Exception as error:
            logger.exception("watching for jobs failed")
            self._fail(question.ids, error)
            return False

    def _pause(self, interval_s: float) -> None:
        """Sleep, but no longer than the shortest interval once somebody new waits or gives up."""
        until = time.monotonic() + interval_s
        soon = time.monotonic() + SHORTEST_S
        with self._changed:
            while not self._closed and (left := (soon if self._hurried else until) - time.monotonic()) > 0:
                self._changed.wait(left)

    @property
    def _hurried(self) -> bool:
        return bool(self._unseen or self._curious)

    def _answer(self, ids: set[str], unseen: set[str]) -> bool:
        """Ask once; hand over what is final. Return whether anything was."""
        with self._database().read() as connection:
            found = lookup.watched(connection, self._tenant, ids, unseen)
        final = [job for job in found.values() if job.state.final]
        ready: list[tuple[Waiter, Outcome]] = []
        with self._changed:
            for job in final:
                for waiter in self._waiters.pop(job.id, set()):
                    waiter.pending.discard(job.id)
                    waiter.done[job.id] = job
                    if not waiter.pending:
                        ready.append((waiter, waiter.done))
            for job_id in unseen - found.keys():
                error = NotFound(f"there is no job {job_id}; `soundmill jobs list` shows those there are")
                for waiter in list(self._waiters.get(job_id, ())):
                    self._forget(waiter)
                    ready.append((waiter, error))
        for waiter, outcome in ready:
            waiter.deliver(outcome)
        return bool(ready) or bool(final)

    def _fail(self, ids: set[str], error: Exception) -> None:
        with self._changed:
            failed = {waiter for job_id in ids for waiter in self._waiters.get(job_id, ())}
            for waiter in failed:
                self._forget(waiter)
        for waiter in failed:
            waiter.deliver(error)

    def _forget(self, waiter: Waiter) -> None:
        for job_id in waiter.pending:
            others = self._waiters.get(job_id, set())
            others.discard(waiter)
            if not others:
                self._waiters.pop(job_id, None)
