"""Group commit: the claims and settles of many threads in few transactions.

A thread writes the groups, on PostgreSQL two of them by turns. While a single job is in flight it writes
at once; under load it waits up to `linger_s` for more, since a commit costs about as much for thirty rows
as for one. A group that fails is replayed row by row, so that a value that the database refuses harms
only its own job. A database that is away is waited for: everything here is conditional, so nothing can
be too late.

On PostgreSQL somebody else may hold a single row for long, such as a caller who submits a child of a running
job in a transaction of its own. Then that job is left aside, so that the others get on: a claim is given up,
since the dispatcher repeats its message, and a settle is tried again and again in a thread of its own.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from soundmill.storage.attempts import Claimed, Claims, Settled, Settlement, claim_and_settle
from soundmill.storage.database import Database, is_locked
from soundmill.storage.errors import StorageUnavailable, Unstorable

logger = logging.getLogger(__name__)

GROUP_MAX = 64
WRITERS = 2
CLOSE_S = 10.0
APART_S = 0.2
LOCKED_IN_A_ROW = 3
RETRY_FIRST_S, RETRY_MOST_S = 0.05, 2.0


@dataclass(slots=True)
class _Entry:
    """A claim (a job's id) or a settlement, and who waits for it."""

    what: str | Settlement
    answer: Future[Any]


class Ledger:
    """Writes the claims and settles of one worker; safe between threads."""

    def __init__(
        self,
        database: Database,
        *,
        worker: str,
        card: str,
        lease_s: float,
        linger_s: float,
        in_flight: Callable[[], int],
    ) -> None:
        """Start the writing thread.

        Args:
            database: Where to write.
            worker: The incarnation that claims.
            card: Where it runs the jobs.
            lease_s: The length of a lease.
            linger_s: How long an entry waits for company.
            in_flight: How many jobs the process holds now; one alone never waits.
        """
        self._database = database
        self._worker, self._card, self._lease_s = worker, card, lease_s
        self._linger_s = linger_s
        self._in_flight = in_flight
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._door = threading.Lock()
        self._gathering = threading.Lock()
        # SQLite has one writer at a time. On PostgreSQL one group is put together and sent while the answers
        # to another are on their way.
        count = 1 if database.dialect == "sqlite" else WRITERS
        self._threads = [
            threading.Thread(target=self._write_groups, name=f"ledger-{number}", daemon=True)
            for number in range(count)
        ]
        # Those that somebody else's lock holds up.
        self._late: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._last_thread = threading.Thread(target=self._write_late, name="ledger-late", daemon=True)
        for thread in (*self._threads, self._last_thread):
            thread.start()

    def claim(self, job_id: str) -> Claimed | None:
        """Take a job; `None` when there is nothing to take.

        Raises:
            StorageUnavailable: The ledger was closed while the database was away.
        """
        answer: Claimed | None = self._ask(job_id)
        return answer

    def settle(self, settlement: Settlement) -> Settled:
        """Write how an attempt ended.

        Raises:
            Unstorable: The database refuses a value of it; nothing of it was written.
            StorageUnavailable: The ledger was closed while the database was away.
        """
        answer: Settled = self._ask(settlement)
        return answer

    def close(self) -> None:
        """Write what is waiting and stop; entries that a dead database holds up are given up."""
        with self._door:
            self._closing.set()
            for _ in self._threads:
                self._entries.put(None)
        until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(timeout=max(until - time.monotonic(), 0.0))
        self._late.put(None)
        self._last_thread.join(timeout=max(until - time.monotonic(), 0.0))

    def _ask(self, what: str | Settlement) -> Any:
        entry = _Entry(what, Future())
        with self._door:  # nothing may come in behind the last entry: nobody would answer it
            if self._closing.is_set():
                raise StorageUnavailable("the worker is closing; the job goes back to its queue")
            self._entries.put(entry)
        return entry.answer.result()

    def _write_groups(self) -> None:
        last = False
        while not last:
            with self._gathering:  # two who gather at once would make two small groups
                group, last = self._next_group()
            if group:
                self._write(group)

    def _next_group(self) -> tuple[list[_Entry], bool]:
        first = self._entries.get()
        if first is None:
            return [], True
        group, last = [first], False
        until = time.monotonic() + (self._linger_s if self._in_flight() > 1 else 0.0)
        while len(group) < GROUP_MAX and not last:
            try:
                entry = self._entries.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if entry is None:
                last = True
            else:
                group.append(entry)
        return group, last

    def _write(self, group: Sequence[_Entry]) -> None:
        pause = RETRY_FIRST_S
        while True:
            try:
                return self._write_once(group)
            except StorageUnavailable as error:
                if is_locked(error):
                    return self._write_apart(group)
                logger.warning("the job table is away; trying again", extra={"waiting": len(group)})
                if self._closing.wait(pause):
                    return _refuse(group, error)
                pause = min(2 * pause, RETRY_MOST_S)
            except BaseException as error:  # noqa: BLE001
                # Whatever it is: a thread that died here would leave every job of the card waiting for ever.
                if len(group) == 1:
                    logger.warning("a row was refused", extra={"error_class": type(error).__name__})
                    return _refuse(group, _unstorable(error))
                logger.info("a group was refused; replaying it row by row", extra={"rows": len(group)})
                for entry in group:
                    self._write([entry])
                return None

    def _write_apart(self, group: Sequence[_Entry]) -> None:
        """Write one by one what nobody holds up; the others have to wait, and wait elsewhere."""
        in_a_row = 0
        for entry in group:
            # Many in a row: it is their batch that somebody holds.
            if in_a_row < LOCKED_IN_A_ROW:
                try:
                    self._write_once([entry], patience_s=APART_S)
                    in_a_row = 0
                    continue
                except StorageUnavailable as error:
                    if not is_locked(error):
                        self._write([entry])
                        continue
                    in_a_row += 1
                except BaseException as error:  # noqa: BLE001 - as in `_write`
                    _refuse([entry], _unstorable(error))
                    continue
            if isinstance(entry.what, str):
                entry.answer.set_result(None)
            else:
                self._late.put(entry)

    def _write_late(self) -> None:
        while (entry := self._late.get()) is not None:
            try:
                self._write_once([entry], patience_s=APART_S)
            except StorageUnavailable as error:
                if self._closing.is_set():
                    _refuse([entry], error)
                else:
                    self._late.put(entry)
                    self._closing.wait(RETRY_FIRST_S)
            except BaseException as error:  # noqa: BLE001 - as in `_write`
                _refuse([entry], _unstorable(error))

    def _write_once(self, group: Sequence[_Entry], *, patience_s: float | None = None) -> None:
        claims = [entry for entry in group if isinstance(entry.what, str)]
        settlements = [entry for entry in group if isinstance(entry.what, Settlement)]
        wanted = Claims(
            ids={entry.what for entry in claims if isinstance(entry.what, str)},
            worker=self._worker,
            card=self._card,
            lease_s=self._lease_s,
        )
        endings = [entry.what for entry in settlements if isinstance(entry.what, Settlement)]
        with self._database.write(patience_s=patience_s) as connection:
            claimed, settled = claim_and_settle(connection, self._database, wanted, endings)
        for place, entry in enumerate(settlements):
            # Children are the group's; whoever came first sees to them, and nobody does so twice.
            entry.answer.set_result(settled if place == 0 else replace(settled, freed=(), cancelled=()))
        for entry in claims:
            # A duplicate message in the same group gets nothing, like one that comes later.
            entry.answer.set_result(claimed.pop(entry.what, None))  # type: ignore[arg-type]


def _refuse(group: Sequence[_Entry], error: BaseException) -> None:
    for entry in group:
        entry.answer.set_exception(error)


def _unstorable(error: BaseException) -> Unstorable:
    # The text of a database error quotes the values, which may be the user's words.
    refusal = Unstorable(f"the job table refuses the result ({type(error).__name__})")
    refusal.__cause__ = error
    return refusal
