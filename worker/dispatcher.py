"""The dispatcher and the reaper: the leader's periodic work, in the supervisor of one host.

The dispatcher keeps the window in Redis topped up from the table. The reaper returns expired
leases, repeats messages that were lost, and moves on what only time moves on. Every step may be
run twice or by two leaders: claims tell duplicates apart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from sqlalchemy import Connection

from soundmill.storage import rescue
from soundmill.storage.database import Database, is_locked
from soundmill.storage.errors import BrokerUnavailable, StorageUnavailable
from soundmill.storage.leader import lead, resign
from soundmill.storage.listing import WorkerView, paused_models, workers
from soundmill.storage.priorities import STEPS
from soundmill.storage.queue import Publisher
from soundmill.storage.settings import Settings
from soundmill.storage.window import Wake, mark_published, pick, take_turns

from .metrics.host import HostMeasures

logger = logging.getLogger(__name__)

Lane = tuple[str, int]
T = TypeVar("T")

DRAIN_SPAN_S = 2.0
GAP_S = 5.0
LOST_AFTER_S = 5.0
WAKE_EVERY_S = 0.25
PATIENCE_S = 0.5
WORKERS_EVERY_S = 2.0


class DrainRate:
    """How fast each lane's messages are taken, from its lengths and what was put in. Pure."""

    def __init__(self) -> None:
        self._seen: dict[Lane, deque[tuple[float, int]]] = {}
        self._last: dict[Lane, int] = {}

    def saw(self, lane: Lane, length: int, now: float) -> None:
        """The lane held `length` messages before anything was added."""
        taken = max(self._last.get(lane, length) - length, 0)
        history = self._seen.setdefault(lane, deque())
        history.append((now, taken))
        while history and history[0][0] < now - DRAIN_SPAN_S:
            history.popleft()
        self._last[lane] = length

    def added(self, lane: Lane, count: int) -> None:
        """Messages were put into the lane after `saw`."""
        self._last[lane] = self._last.get(lane, 0) + count

    def recent(self, lane: Lane) -> int:
        """The messages taken in the last two seconds."""
        return sum(taken for _, taken in self._seen.get(lane, ()))


def room_of(length: int, *, live_slots: int, recent: int, least: int, most: int) -> int:
    """How many messages a lane may take: two rounds of its slots or two seconds of its work."""
    return max(min(max(2 * live_slots, recent, least), most) - length, 0)


class Dispatcher:
    """Leads when it can, and then ticks."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        settings: Settings,
        models: Iterable[str],
        holder: str,
        measures: HostMeasures | None = None,
    ) -> None:
        self._measures = measures or HostMeasures()
        self._database = database
        self._publisher = publisher
        self._settings = settings
        self._models = tuple(models)
        self._holder = holder
        self._rate = DrainRate()
        self._workers: list[WorkerView] = []
        self._leads = False
        self._due: dict[str, float] = {}
        self._last_tick = time.monotonic()
        self._clock_offset = time.time() - time.monotonic()
        self._no_rescue_until = 0.0
        self._forgotten_after = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Tick in the background."""
        self._thread.start()

    @property
    def leads(self) -> bool:
        """Whether this process led when it last asked."""
        return self._leads

    def stop(self) -> None:
        """Stop ticking and hand the leadership on."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=15)
        try:
            with self._database.write() as connection:
                resign(connection, holder=self._holder)
        except StorageUnavailable:
            logger.info("the leadership runs out by itself")

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.dispatch_interval_s):
            try:
                self.tick()
            except (
                BrokerUnavailable
            ) as error:  # heartbeats do not pass through it: leases are as old as they look
                logger.info("the dispatcher waits for the broker", extra={"reason": str(error)})
                self._stopping.wait(0.5)
            except StorageUnavailable as error:
                logger.info("the dispatcher waits", extra={"reason": str(error)})
                self._hold_rescue()
                self._stopping.wait(0.5)
            except Exception:
                logger.exception("a dispatcher's tick failed in an unforeseen way")
                self._stopping.wait(1.0)

    def tick(self) -> int:
        """One round of everything that is due; return how many messages went out.

        Raises:
            StorageUnavailable: The database did not answer, or Redis: `BrokerUnavailable`.
        """
        self._notice_gap()
        if self._is_due("lead", self._settings.leader_lease_s / 3):
            with self._database.write() as connection:
                self._leads = lead(
                    connection, self._database, holder=self._holder, lease_s=self._settings.leader_lease_s
                )
            self._measures.leads(self._leads)
        if not self._leads:
            return 0
        if self._is_due("workers", WORKERS_EVERY_S):
            with self._database.read() as connection:
                self._workers = [w for w in workers(connection, self._database) if w.live and not w.draining]
        if self._is_due("wake", WAKE_EVERY_S):
            self._write(rescue.wake_due, 0)
        if self._is_due("reap", self._settings.reaper_s):
            self.reap()
        return self.dispatch()

    def _is_due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every_s
        return True

    def _notice_gap(self) -> None:
        """After a pause of our own, or a jump of the wall clock, leases look older than they are."""
        now, offset = time.monotonic(), time.time() - time.monotonic()
        if now - self._last_tick > GAP_S or abs(offset - self._clock_offset) > GAP_S:
            logger.warning("the dispatcher was held up or the clock jumped; leases get one more term")
            self._hold_rescue()
        self._last_tick, self._clock_offset = now, offset

    def _hold_rescue(self) -> None:
        self._no_rescue_until = time.monotonic() + self._settings.lease_s

    def _write(self, work: Callable[[Connection, Database], T], otherwise: T) -> T:
        """Do some work in a transaction; `otherwise` is the answer where somebody else has a row it needs.

        A transaction elsewhere that goes on for long must not hold up what has nothing to do with it.
        """
        try:
            with self._database.write(patience_s=PATIENCE_S) as connection:
                return work(connection, self._database)
        except StorageUnavailable as error:
            if not is_locked(error):
                raise
            logger.info("another transaction holds rows of the job table; the dispatcher goes on without")
            return otherwise

    # -- the window --------------------------------------------------------------------------------

    def dispatch(self) -> int:
        """Put messages out for the jobs that are next; return how many."""
        lengths = self._lengths()
        room = {lane: self._room(lane, length) for lane, length in lengths.items()}
        with self._database.read() as connection:
            wakes = pick(connection, room, paused_models(connection))
        if wakes:
            self._publish(wakes)
        return len(wakes)

    def _lengths(self) -> dict[Lane, int]:
        lengths = self._publisher.lengths(self._served())
        now = time.monotonic()
        for lane, length in lengths.items():
            self._rate.saw(lane, length, now)
        return lengths

    def _served(self) -> list[str]:
        """Our own models and those of other hosts: whoever leads, leads for all."""
        return sorted({*self._models, *(model for worker in self._workers for model in worker.models)})

    def _room(self, lane: Lane, length: int) -> int:
        live_slots = sum(worker.slots for worker in self._workers if lane[0] in worker.models)
        return room_of(
            length,
            live_slots=live_slots,
            recent=self._rate.recent(lane),
            least=self._settings.window_min,
            most=self._settings.window_max,
        )

    def _publish(self, wakes: list[Wake]) -> None:
        self._publisher.publish(wakes)  # first: a crash now repeats messages, the other way round loses them
        self._measures.published(len(wakes))
        for wake in wakes:
            self._rate.added(wake.lane, 1)
        with self._database.write() as connection:
            mark_published(connection, self._database, wakes)
        # Apart: a worker's group locks its batches before its next jobs, so who holds jobs and waits for a
        # batch deadlocks with it.
        self._write(lambda connection, _: take_turns(connection, wakes), None)

    # -- the reaper --------------------------------------------------------------------------------

    def reap(self) -> None:
        """Return what was lost to its queue."""
        if time.monotonic() >= self._no_rescue_until:
            rescued: list[str] = self._write(rescue.rescue_expired, [])
            if rescued:
                logger.warning("leases ran out; their jobs are available again", extra={"jobs": rescued})
                self._measures.rescued("expired", len(rescued))
        self._measures.expired(self._write(rescue.discard_late, 0))
        self._sweep_forgotten()
        self._repeat_lost_messages()

    def _sweep_forgotten(self) -> None:
        after = self._forgotten_after
        _, self._forgotten_after = self._write(
            lambda connection, database: rescue.release_forgotten(connection, database, after), (0, after)
        )

    def _repeat_lost_messages(self) -> None:
        with self._database.read() as connection:
            models = rescue.published_models(connection)
        lengths = self._publisher.lengths(models)
        for model in models:
            self._repeat_of(model, lengths)

    def _repeat_of(self, model: str, lengths: Mapping[Lane, int]) -> None:
        """Repeat as many of the oldest messages as are missing, and those that are older than they can be.

        Lane by lane: a lower one may be full of messages that nobody needs any more, of jobs that were
        cancelled or came twice. They would make up for what a higher one has lost until all had been read.
        """
        lanes = [(model, step) for step in STEPS]
        recent = sum(self._rate.recent(lane) for lane in lanes)
        again: list[Wake] = []
        ahead = 0
        with self._database.read() as connection:
            published = rescue.count_published(connection, self._database, model, LOST_AFTER_S)
            for lane in lanes:
                ahead += lengths[lane]
                missing = published[lane] - lengths[lane]
                # Where nobody works everything is old, and repeating it would only pile up.
                room = self._room(lane, lengths[lane]) if recent else 0
                drained_s = 3 * max(ahead, 1) * DRAIN_SPAN_S / max(recent, 1)
                for older_s, count in ((LOST_AFTER_S, missing), (max(drained_s, LOST_AFTER_S), room)):
                    again += rescue.oldest_published(
                        connection, self._database, lane, older_s=older_s, count=count
                    )
        again = list({wake.id: wake for wake in again}.values())
        if again:
            logger.info("messages were lost; repeating them", extra={"model": model, "messages": len(again)})
            self._publish(again)
            self._measures.repeated(len(again))
