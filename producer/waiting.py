"""Waiting in the caller's own thread, on top of the watcher."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from soundmill.storage.listing import page_of_jobs

from .errors import WaitTimedOut
from .watcher import Outcome, Waiter, Watcher

if TYPE_CHECKING:
    from soundmill.storage.database import Database
    from soundmill.storage.listing import JobView

WATCHED_AT_ONCE = 5000
"""More jobs than this are waited for in groups, so that one query never names too many."""

LAST_LOOK_S = 5.0
"""So long a wait whose time is up lets a slow job table answer for the last time."""

PAGE = 500


def groups_of(ids: Sequence[str]) -> list[Sequence[str]]:
    """Split ids into groups that can be watched at once."""
    return [ids[start : start + WATCHED_AT_ONCE] for start in range(0, len(ids), WATCHED_AT_ONCE)]


def wait_for(watcher: Watcher, ids: Collection[str], timeout_s: float | None) -> dict[str, JobView]:
    """Block until all of `ids` are final; look once more when the time is up, at least once altogether.

    Raises:
        NotFound: One of them does not exist.
        WaitTimedOut: Some were not final in time.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    found: dict[str, JobView] = {}
    for group in groups_of(list(dict.fromkeys(ids))):
        found |= _wait_for_group(watcher, group, deadline)
    return found


def _wait_for_group(watcher: Watcher, ids: Sequence[str], deadline: float | None) -> dict[str, JobView]:
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    waiter = Waiter(ids, outcomes.put)
    watcher.add(waiter)
    try:
        return dict(_next_of(outcomes, watcher, [waiter], _left(deadline)))
    finally:
        watcher.remove(waiter)


def as_final(watcher: Watcher, ids: Sequence[str], timeout_s: float | None) -> Iterator[JobView]:
    """Yield each of `ids` when it is final, in the order in which that happens.

    Raises:
        NotFound: One of them does not exist.
        WaitTimedOut: The next one took longer than `timeout_s`.
    """
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    waiters = [Waiter([job_id], outcomes.put) for job_id in dict.fromkeys(ids)]
    watcher.add(*waiters)
    try:
        for _ in waiters:
            yield from _next_of(outcomes, watcher, waiters, timeout_s).values()
    finally:
        watcher.remove(*waiters)


def _next_of(
    outcomes: SimpleQueue[Outcome], watcher: Watcher, waiters: Sequence[Waiter], timeout_s: float | None
) -> Mapping[str, JobView]:
    """What comes next for one of the waiters."""
    try:
        outcome = outcomes.get(timeout=timeout_s)
    except Empty:
        looked = threading.Event()
        watcher.after_look(looked.set)
        looked.wait(LAST_LOOK_S)
        try:
            outcome = outcomes.get_nowait()
        except Empty:
            raise timed_out(*waiters) from None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def ids_of_batch(database: Database, tenant: str, batch: str) -> Iterator[list[str]]:
    """The ids of all jobs of a batch in order of acceptance, in groups of at most 500."""
    after = 0
    while True:
        with database.read() as connection:
            page = page_of_jobs(connection, tenant=tenant, batch=batch, after_seq=after, limit=PAGE)
        if not page:
            return
        yield [job.id for job in page]
        after = page[-1].seq


def timed_out(*waiters: Waiter) -> WaitTimedOut:
    """The error of waiters whose time is up."""
    unfinished = tuple(job_id for waiter in waiters for job_id in sorted(waiter.pending))
    some = ", ".join(islice(unfinished, 3)) + (" …" if len(unfinished) > 3 else "")
    return WaitTimedOut(
        f"{len(unfinished)} of the jobs were not final in time ({some}); they go on: wait again or cancel them",
        unfinished,
    )


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
