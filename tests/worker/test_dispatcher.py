"""The dispatcher and the reaper, tick by tick, with a mailbox in place of Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from soundmill.storage.database import Database
from soundmill.storage.decisions import set_paused
from soundmill.storage.errors import StorageUnavailable
from soundmill.storage.leases import Progress, keep
from soundmill.storage.lifecycle import State
from soundmill.storage.queue import Publisher
from soundmill.storage.rows import Worker
from soundmill.storage.settings import Settings
from soundmill.worker import dispatcher as module
from soundmill.worker.dispatcher import Dispatcher, DrainRate, room_of

from ..storage.jobs import change, field, see, states, submit, submit_many, take
from .bench import Mailbox
from .running import until

LANE = ("espeak-ng", 6)  # where the default priority goes


class Clock:
    """The two clocks of `time`, moved by hand."""

    def __init__(self) -> None:
        self.now, self.wall = time.monotonic(), time.time()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall

    def move(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Desk:
    """A dispatcher with its mailbox."""

    def __init__(self, database: Database, clock: Clock, holder: str = "here", **settings: Any) -> None:
        self.database, self.clock, self.mailbox = database, clock, Mailbox()
        self.settings = Settings(**settings)
        publisher = cast(Publisher, self.mailbox)
        self.dispatcher = Dispatcher(database, publisher, self.settings, ["espeak-ng"], holder)

    def tick(self, times: int = 1) -> int:
        """Tick, all periodic work being due; return how many messages went out."""
        sent = len(self.mailbox.sent)
        for _ in range(times):
            self.clock.move(self.settings.reaper_s)
            self.dispatcher.tick()
        return len(self.mailbox.sent) - sent

    def worker(self, slots: int = 8, **changes: Any) -> None:
        """A live worker."""
        values = {
            "name": "cpu-0@here", "incarnation": "w#1", "host": "here", "card": "cpu:0", "pid": 1,
            "models": ["espeak-ng"], "slots": slots, "started_at": 0.0, "heartbeat_at": time.time(),
            "draining": False,
        }  # fmt: skip
        with self.database.write() as connection:
            connection.execute(insert(Worker).values(**values | changes))


@pytest.fixture
def desk(database: Database, clock: Clock) -> Desk:
    return Desk(database, clock)


def aged(desk: Desk, ids: list[str], seconds: float = 10.0) -> None:
    """Let the messages of the jobs be older than they are."""
    for id_ in ids:
        change(desk.database, id_, published_at=field(desk.database, id_, "published_at") - seconds)


# -- pure parts ----------------------------------------------------------------------------------------


@given(
    length=st.integers(0, 5000), live_slots=st.integers(0, 3000), recent=st.integers(0, 5000),
    least=st.integers(1, 100), more=st.integers(0, 3000),
)  # fmt: skip
def test_a_lane_is_filled_to_its_bounds_and_never_beyond(
    length: int, live_slots: int, recent: int, least: int, more: int
) -> None:
    room = room_of(length, live_slots=live_slots, recent=recent, least=least, most=least + more)
    assert room >= 0
    assert room == 0 or least <= length + room <= least + more


def test_room_is_two_rounds_of_slots_or_two_seconds_of_work() -> None:
    assert room_of(0, live_slots=0, recent=0, least=32, most=2000) == 32
    assert room_of(0, live_slots=100, recent=0, least=32, most=2000) == 200
    assert room_of(50, live_slots=100, recent=900, least=32, most=2000) == 850
    assert room_of(0, live_slots=0, recent=9999, least=32, most=2000) == 2000


def test_the_drain_rate_counts_what_was_taken_in_the_last_two_seconds() -> None:
    rate = DrainRate()
    rate.saw(LANE, 100, now=0.0)
    rate.saw(LANE, 60, now=1.0)
    assert rate.recent(LANE) == 40
    rate.added(LANE, 40)
    rate.saw(LANE, 90, now=2.0)
    assert rate.recent(LANE) == 50
    rate.saw(LANE, 90, now=3.5)
    assert rate.recent(LANE) == 10
    assert rate.recent(("other", 0)) == 0


def test_messages_of_others_are_no_negative_work() -> None:
    rate = DrainRate()
    rate.saw(LANE, 10, now=0.0)
    rate.saw(LANE, 500, now=0.1)
    assert rate.recent(LANE) == 0


# -- the window ----------------------------------------------------------------------------------------


def test_a_backlog_goes_out_in_order_as_far_as_there_is_room(desk: Desk) -> None:
    ids = submit_many(desk.database, 100)
    assert desk.tick() == 32
    assert [wake.id for wake in desk.mailbox.sent] == ids[:32]
    assert all(field(desk.database, id_, "published_at") for id_ in ids[:32])
    assert desk.tick() == 0


def test_a_queue_without_workers_never_grows(desk: Desk) -> None:
    ids = submit_many(desk.database, 200)
    desk.tick()
    for _ in range(5):
        aged(desk, ids[:32])
        desk.tick()
    assert desk.mailbox.lanes[LANE] == 32


def test_the_window_follows_the_slots_of_live_workers(desk: Desk) -> None:
    submit_many(desk.database, 200)
    desk.worker(slots=50)
    assert desk.tick() == 100


def test_draining_and_dead_workers_ask_for_nothing(desk: Desk) -> None:
    submit_many(desk.database, 200)
    desk.worker(slots=50, draining=True)
    desk.worker(slots=50, name="other", heartbeat_at=0.0)
    assert desk.tick() == 32


def test_a_full_low_lane_does_not_hold_up_a_high_one(desk: Desk) -> None:
    submit_many(desk.database, 100, priority=0)
    desk.tick()
    urgent = submit(desk.database, priority=9)
    desk.tick()
    assert desk.mailbox.sent[-1].id == urgent


def test_the_leader_feeds_the_models_of_other_hosts_too(desk: Desk) -> None:
    """Only one host leads; another may serve models that this one never heard of."""
    id_ = submit(desk.database, model="theirs")
    desk.worker(models=["theirs"])
    assert desk.tick() == 1
    assert desk.mailbox.sent[0].id == id_


def test_a_paused_queue_gets_no_messages_until_it_goes_on(desk: Desk) -> None:
    submit_many(desk.database, 5)
    with desk.database.write() as connection:
        set_paused(connection, desk.database, "espeak-ng", paused=True)
    assert desk.tick(3) == 0
    with desk.database.write() as connection:
        set_paused(connection, desk.database, "espeak-ng", paused=False)
    assert desk.tick() == 5


def test_a_job_whose_time_has_come_goes_out(desk: Desk) -> None:
    id_ = submit(desk.database, delay_s=3600)
    assert desk.tick() == 0
    change(desk.database, id_, available_at=time.time() - 1)
    assert desk.tick() == 1


def test_a_crash_between_publishing_and_marking_repeats_messages_and_loses_none(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submit_many(desk.database, 3)

    def crash(*_: Any) -> None:
        raise StorageUnavailable("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(module, "mark_published", crash)
        with pytest.raises(StorageUnavailable):
            desk.tick()
    assert [wake.id for wake in desk.mailbox.sent] == ids
    assert desk.tick() == 3
    assert [wake.id for wake in desk.mailbox.sent] == ids * 2
    assert take(desk.database, ids[0]).keys() == {ids[0]}
    assert take(desk.database, ids[0]) == {}, "the second message finds nothing to claim"


def test_a_dead_redis_marks_nothing_as_published(desk: Desk) -> None:
    id_ = submit(desk.database)
    desk.mailbox.dead = True
    with pytest.raises(StorageUnavailable):
        desk.tick()
    assert field(desk.database, id_, "published_at") is None
    desk.mailbox.dead = False
    assert desk.tick() == 1


# -- the reaper ----------------------------------------------------------------------------------------


def test_a_flushed_redis_is_repaired_in_one_pass(desk: Desk) -> None:
    desk.worker(slots=20)
    ids = submit_many(desk.database, 40)
    assert desk.tick() == 40
    desk.mailbox.flush()
    aged(desk, ids)
    assert desk.tick() == 40
    assert desk.mailbox.lanes[LANE] == 40
    assert desk.tick() == 0


def test_only_as_many_messages_are_repeated_as_are_missing(desk: Desk) -> None:
    ids = submit_many(desk.database, 20)
    desk.tick()
    aged(desk, ids)
    desk.mailbox.lanes[LANE] = 15
    assert desk.tick() == 5


def test_a_lost_message_is_not_made_up_for_by_stale_ones_of_a_lower_lane(desk: Desk) -> None:
    urgent = submit(desk.database, priority=9)
    ids = submit_many(desk.database, 20)
    desk.tick()
    aged(desk, [urgent, *ids])
    desk.mailbox.lanes["espeak-ng", 0] = 0  # whoever read it died
    desk.mailbox.lanes[LANE] = 60  # most of their jobs were cancelled since
    desk.mailbox.sent.clear()

    assert desk.tick() == 1

    assert [wake.id for wake in desk.mailbox.sent] == [urgent]


def test_a_young_message_is_not_taken_for_lost(desk: Desk) -> None:
    submit_many(desk.database, 20)
    desk.tick()
    desk.mailbox.flush()
    assert desk.tick() == 0


def expired(database: Database) -> str:
    id_ = submit(database)
    take(database, id_, lease_s=-1.0)
    return id_


def test_an_expired_lease_goes_back_to_its_queue(desk: Desk) -> None:
    id_ = expired(desk.database)
    assert desk.tick() == 1
    assert (see(desk.database, id_).state, see(desk.database, id_).failures) == (State.AVAILABLE, 0)


def test_leases_are_returned_while_redis_is_away(database: Database) -> None:
    desk = Desk(database, Clock(), dispatch_interval_s=0.01, reaper_s=0.05)
    desk.mailbox.dead = True
    desk.dispatcher.start()
    time.sleep(1.0)  # it has met the dead Redis by now
    id_ = expired(database)
    try:
        until(lambda: see(database, id_).state == State.AVAILABLE, 20)
    finally:
        desk.dispatcher.stop()


def test_a_deadline_that_passed_while_waiting_discards(desk: Desk) -> None:
    id_ = submit(desk.database, delay_s=100.0, timeout_s=0.001)
    time.sleep(0.01)
    desk.tick()
    assert see(desk.database, id_).error_code == "deadline_exceeded"


@pytest.mark.parametrize(
    "gap",
    [lambda clock: clock.move(60.0), lambda clock: setattr(clock, "wall", clock.wall + 3600)],
    ids=["held up", "clock jumped"],
)
def test_after_a_gap_of_its_own_the_reaper_waits_a_lease(desk: Desk, gap: Callable[[Clock], None]) -> None:
    desk.tick()
    id_ = expired(desk.database)
    gap(desk.clock)
    desk.dispatcher.tick()
    for _ in range(int(desk.settings.lease_s / desk.settings.reaper_s) - 1):
        desk.clock.move(desk.settings.reaper_s)
        desk.dispatcher.tick()
        assert see(desk.database, id_).state == State.EXECUTING
    desk.tick(2)
    assert see(desk.database, id_).state == State.AVAILABLE


def test_a_worker_that_was_only_held_up_keeps_its_job_over_the_gap(desk: Desk) -> None:
    desk.tick()
    id_ = expired(desk.database)
    desk.clock.move(60.0)
    desk.dispatcher.tick()
    with desk.database.write() as connection:
        kept = keep(connection, desk.database, {(id_, 1): Progress()}, worker="cpu-0@here/1", lease_s=1000.0)
    assert kept.held == {(id_, 1)}
    desk.tick(20)
    assert see(desk.database, id_).state == State.EXECUTING


def test_a_child_that_nobody_counted_off_is_released(desk: Desk) -> None:
    parent = submit(desk.database)
    child = submit(desk.database, parents=(parent,))
    change(desk.database, parent, state=State.COMPLETED.value)
    desk.tick(2)
    assert see(desk.database, child).state == State.AVAILABLE


# -- leading -------------------------------------------------------------------------------------------


def test_one_of_two_leads_and_the_other_follows_when_it_resigns(database: Database, clock: Clock) -> None:
    first, second = Desk(database, clock, "first"), Desk(database, clock, "second")
    ids = submit_many(database, 2)
    assert first.tick() == 2
    submit(database)
    assert second.tick() == 0
    first.dispatcher.stop()
    assert second.tick() == 1
    assert states(database, ids) == [State.AVAILABLE] * 2


def test_two_leaders_at_once_do_no_harm(database: Database, clock: Clock) -> None:
    first, second = Desk(database, clock, "first"), Desk(database, clock, "second")
    first.dispatcher._leads = second.dispatcher._leads = True
    ids = submit_many(database, 10)
    assert first.dispatcher.dispatch() == 10
    second.dispatcher.dispatch()
    assert [len(take(database, id_)) for id_ in ids] == [1] * 10


def test_the_thread_survives_what_nobody_foresaw(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(database, Clock(), dispatch_interval_s=0.01)
    failures = iter([RuntimeError("odd"), StorageUnavailable("away")])
    ticks: list[float] = []

    def tick() -> int:
        ticks.append(time.monotonic())
        for failure in failures:
            raise failure
        return 0

    monkeypatch.setattr(desk.dispatcher, "tick", tick)
    desk.dispatcher.start()
    give_up_at = time.monotonic() + 20
    while len(ticks) < 5 and time.monotonic() < give_up_at:
        time.sleep(0.05)
    desk.dispatcher.stop()
    assert len(ticks) >= 5
