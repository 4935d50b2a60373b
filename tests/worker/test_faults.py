"""The stack torn down at any point: every job reaches a final state once, and the queue goes on by itself."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from soundmill.producer import Producer
from soundmill.storage.broker import running_broker_url
from soundmill.storage.database import Database
from soundmill.storage.decisions import set_draining
from soundmill.storage.lifecycle import State
from soundmill.storage.queue import RESPONSIVE, Publisher, make_app, redis_key
from soundmill.storage.window import Wake

from ..postgres import PostgresServer, StopMode
from .conftest import StackMaker
from .running import Stack, stopped, told, until

pytestmark = pytest.mark.slow

SLOTS = 8
IN_HAND = 12  # messages that the process of a card holds: eight slots and half as many again
SUBMIT_S = 0.3  # after the commit, whatever Redis does
COMMIT_S = 0.2  # what a commit may take on a disk that others use


def assert_stops_cleanly(stack: Stack) -> None:
    assert stack.stop() == 0, stack.words()
    assert stack.left_behind() == []


def assert_no_slot_is_lost(stack: Stack, cards: int) -> None:
    """Every card performs as many jobs at once as it has slots, and has the others in hand."""
    before = len(stack.runs())
    ids = stack.submit_many(IN_HAND * cards, steps=2000, step_s=0.05)
    until(lambda: len(stack.runs()) == before + SLOTS * cards, 30, stack.words)
    until(lambda: stack.states(ids) == {"executing": IN_HAND * cards}, 30, stack.words)
    for job_id in ids:
        stack.cancel(job_id)
    stack.await_final(ids)


def busy(stack: Stack, count: int = 60, after: int = 20) -> list[str]:
    """Many jobs, of which some have begun."""
    ids = stack.submit_many(count, steps=20, step_s=0.02)
    until(lambda: len(stack.runs()) >= after, 30, stack.words)
    return ids


@pytest.fixture
def producer(stack: Stack) -> Iterator[Producer]:
    """A producer of the same host, which has submitted once."""
    with Producer(settings=stack.settings) as producer:
        yield producer


def timed_submit(producer: Producer) -> tuple[str, float]:
    """Submit a job; its id, and the seconds since it was written."""
    job = producer.submit(model="drill", args={})
    returned = time.time()
    return job.id, returned - producer.get(job.id).submitted_at


# -- processes -----------------------------------------------------------------------------------------


def test_a_killed_card_costs_its_own_jobs_a_second_run_and_nothing_else(any_stack: StackMaker) -> None:
    stack = any_stack()
    stack.start("cpu:0", "cpu:1")
    ids = busy(stack)
    stack.kill("cpu:0")
    took = stack.await_final(ids)
    told("kill -9 of a card", {"repeated": stack.assert_sound(ids, again=IN_HAND), "seconds": took})
    assert stack.states(ids) == {"completed": len(ids)}
    assert all(job.failures == job.crashes == 0 for job in map(stack.job, ids))
    assert_stops_cleanly(stack)


def test_a_killed_supervisor_leaves_no_process_and_the_next_one_goes_on(
    stack: Stack, producer: Producer
) -> None:
    stack.start("cpu:0", "cpu:1")
    ids = [timed_submit(producer)[0], *busy(stack)]
    stack.stop(signal.SIGKILL)
    begun = time.monotonic()
    assert stack.left_behind() == [], stack.words()
    gone = time.monotonic() - begun
    submitted = [timed_submit(producer) for _ in range(3)]
    slowest = max(seconds for _, seconds in submitted)
    told("kill -9 of the supervisor", {"until all were gone": gone, "slowest submit": slowest})
    assert slowest < SUBMIT_S + COMMIT_S
    ids += [id_ for id_, _ in submitted]
    stack.start("cpu:0", "cpu:1")
    took = stack.await_final(ids)
    told("and after the restart", {"repeated": stack.assert_sound(ids, again=2 * IN_HAND), "seconds": took})
    assert stack.states(ids) == {"completed": len(ids)}
    assert all(job.failures == job.crashes == 0 for job in map(stack.job, ids))
    assert_stops_cleanly(stack)


def test_a_killed_broker_is_replaced_and_submit_stays_quick(stack: Stack, producer: Producer) -> None:
    stack.start("cpu:0", "cpu:1")
    ids = [timed_submit(producer)[0], *busy(stack)]
    killed = stack.server()
    killed.kill()
    times = []
    for _ in range(5):
        id_, seconds = timed_submit(producer)
        ids.append(id_)
        times.append(seconds)
        time.sleep(0.2)
    assert max(times) < SUBMIT_S + COMMIT_S, times
    took = stack.await_final(ids)
    told("kill -9 of the broker", {"slowest submit": max(times), "repeated": stack.assert_sound(ids, again=0),
                                   "seconds": took})  # fmt: skip
    assert stack.server().pid != killed.pid
    assert stack.states(ids) == {"completed": len(ids)}
    assert_stops_cleanly(stack)


def test_a_frozen_broker_holds_up_neither_submit_nor_cancel(stack: Stack, producer: Producer) -> None:
    stack.start("cpu:0", "cpu:1")
    warm = timed_submit(producer)[0]
    running = stack.submit(steps=3000)[0]
    stack.await_state(running, State.EXECUTING)
    until(lambda: stack.ran(running), 10)
    with stopped(stack.server()):
        submitted = [timed_submit(producer) for _ in range(3)]
        times = [seconds for _, seconds in submitted]
        assert max(times) < SUBMIT_S + COMMIT_S, times
        begun = time.monotonic()
        producer.cancel(running)
        job = stack.await_state(running, State.CANCELLED, timeout_s=10)
        by_heartbeat = time.monotonic() - begun
        assert job.error_code == "cancelled"
        time.sleep(1)
    ids = [warm, running, *(id_ for id_, _ in submitted)]
    took = stack.await_final(ids)
    told("SIGSTOP of the broker", {"slowest submit": max(times), "cancel by heartbeat": by_heartbeat,
                                   "resumed after": took})  # fmt: skip
    stack.assert_sound(ids, again=0)
    assert_stops_cleanly(stack)


def test_a_flushed_broker_loses_no_job_and_no_remote_control(stack: Stack, producer: Producer) -> None:
    stack.start("cpu:0", "cpu:1")
    ids = stack.submit_many(150, steps=10, step_s=0.02)
    until(lambda: len(stack.runs()) >= 30, 30)
    stack.redis().flushall()
    took = stack.await_final(ids)
    told("FLUSHALL", {"repeated": stack.assert_sound(ids, again=0), "seconds": took})
    assert stack.states(ids) == {"completed": len(ids)}
    running = producer.submit(model="drill", args={"steps": 3000}).id
    until(lambda: stack.ran(running), 20, stack.words)
    producer.cancel(running)
    stack.await_state(running, State.CANCELLED)
    assert_stops_cleanly(stack)


def test_a_frozen_card_is_fenced_when_it_comes_back(any_stack: StackMaker) -> None:
    stack = any_stack()
    stack.start("cpu:0")
    ids = stack.submit_many(3, what="write", text="fenced", steps=30, step_s=0.05)
    until(lambda: len(stack.runs()) == 3, 30)
    frozen = stack.cards()["cpu:0"]
    begun = time.monotonic()
    with stopped(frozen):
        until(lambda: stack.states(ids)["available"] == 3, 15)  # the reaper has them back
        told("SIGSTOP of a card", {"until its jobs were available": time.monotonic() - begun})
    took = stack.await_final(ids)
    repeated = stack.assert_sound(ids, again=3)
    told("and SIGCONT", {"repeated": repeated, "seconds": took})
    assert stack.states(ids) == {"completed": 3}
    assert stack.cards()["cpu:0"].pid == frozen.pid, "a person's SIGSTOP is no reason to kill"
    for id_ in ids:
        assert [(a.attempt, a.outcome) for a in stack.attempts(id_)] == [(1, "lost"), (2, "completed")]
        assert stack.job(id_).failures == stack.job(id_).crashes == 0
    assert_stops_cleanly(stack)


# -- the database --------------------------------------------------------------------------------------


def test_a_restarted_database_delays_jobs_only(
    postgres_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    modes: tuple[StopMode, ...] = ("fast", "immediate")  # told to stop, and crashed
    stack = Stack(tmp_path, postgres_url)
    try:
        stack.start("cpu:0", "cpu:1")
        ids: list[str] = []
        for mode in modes:
            ids += busy(stack, after=len(stack.runs()) + 20)
            postgres_server.stop(mode)
            time.sleep(1.5)
            postgres_server.start()
            told(f"restart of PostgreSQL, {mode}", {"seconds": stack.await_final(ids)})
        told("both", {"repeated": stack.assert_sound(ids, again=4 * IN_HAND)})
        assert stack.states(ids) == {"completed": len(ids)}
        assert all(job.failures == job.crashes == 0 for job in map(stack.job, ids))
        assert_no_slot_is_lost(stack, cards=2)
        assert_stops_cleanly(stack)
    finally:
        stack.close()


def test_a_locked_database_delays_jobs_only(stack: Stack) -> None:
    stack.start("cpu:0", "cpu:1")
    ids = busy(stack)
    with locked(stack.database):
        time.sleep(10)  # beyond the five seconds that a transaction waits for the lock, and the leases
    took = stack.await_final(ids)
    told("SQLite locked for 10 s", {"repeated": stack.assert_sound(ids, again=2 * IN_HAND), "seconds": took})
    assert stack.states(ids) == {"completed": len(ids)}
    assert all(job.failures == job.crashes == 0 for job in map(stack.job, ids))
    assert_no_slot_is_lost(stack, cards=2)
    assert_stops_cleanly(stack)


@contextmanager
def locked(database: Database) -> Iterator[None]:
    connection = sqlite3.connect(str(database.url.database), timeout=30, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


# -- jobs that take their process along ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("culprit", "crashes", "words"),
    [
        ("segfault", 2, "it died of SIGSEGV"),
        ("card", 1, "the card failed in it"),
        ("hang", 1, "it made no step for longer than the watchdog allows"),
        ("devour", 1, "it took more memory than card_memory_gb allows"),
    ],
)
def test_a_job_that_breaks_its_process_is_found_out_and_harms_no_neighbour(
    culprit: str, crashes: int, words: str, sqlite_stack: StackMaker
) -> None:
    stack = sqlite_stack(max_crashes=crashes, watchdog_step_s=2.0, card_memory_gb=0.5)
    stack.start("cpu:0")
    neighbours = stack.submit_many(10, steps=20, step_s=0.02)
    bad = stack.submit(what=culprit, steps=10, step_s=0.02)[0]
    took = stack.await_final([bad, *neighbours], timeout_s=90)
    stack.assert_sound([bad, *neighbours])
    told(
        f"a job that does {culprit}",
        {"its runs": len([1 for job, _ in stack.runs() if job == bad]), "seconds": took},
    )
    assert stack.states(neighbours) == {"completed": 10}
    job = stack.job(bad)
    assert (job.state, job.error_code, job.crashes) == (State.DISCARDED, "worker_crashed", crashes), job
    assert words in (job.error or "")
    # Found out among others, which is charged to nobody; then alone, which is.
    assert len(stack.attempts(bad)) == 1 + crashes
    assert all(job.failures == job.crashes == 0 for job in map(stack.job, neighbours))
    assert_stops_cleanly(stack)


def test_a_job_that_raises_at_decode_is_discarded_within_its_limits_and_harms_no_neighbour(
    stack: Stack,
) -> None:
    stack.start("cpu:0")
    neighbours = stack.submit_many(10, steps=20, step_s=0.02)
    bad = stack.submit(what="spoil", steps=10, step_s=0.02, max_failures=2)[0]
    stack.await_final([bad, *neighbours])
    stack.assert_sound([bad, *neighbours], again=1)
    assert stack.states(neighbours) == {"completed": 10}
    job = stack.job(bad)
    assert (job.state, job.error_code, job.failures, job.crashes) == (State.DISCARDED, "handler_error", 2, 0)
    assert job.error == "the model failed with RuntimeError: the codes of the drill are no codes"
    assert all(job.attempt == 1 for job in map(stack.job, neighbours))
    assert_stops_cleanly(stack)


def test_a_job_that_holds_the_interpreter_is_found_out_before_its_lease_moves_on(
    sqlite_stack: StackMaker,
) -> None:
    stack = sqlite_stack(max_crashes=1, lease_s=6.0)
    stack.start("cpu:0")
    neighbours = stack.submit_many(5, steps=20, step_s=0.02)
    bad = stack.submit(what="hold_gil", steps=10, step_s=0.02)[0]
    took = stack.await_final([bad, *neighbours], timeout_s=90)
    stack.assert_sound([bad, *neighbours])
    told("a job that holds the GIL", {"seconds": took})
    assert stack.states(neighbours) == {"completed": 5}
    assert (stack.job(bad).state, stack.job(bad).error_code) == (State.DISCARDED, "worker_crashed")
    assert [attempt.outcome for attempt in stack.attempts(bad)] == ["crashed", "crashed"]
    assert_stops_cleanly(stack)


# -- going and coming back -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_short_jobs_finish_and_hands_long_ones_back(number: signal.Signals, stack: Stack) -> None:
    stack.start("cpu:0")
    long = stack.submit_many(3, steps=400, step_s=0.05)
    until(lambda: all(map(stack.ran, long)), 30)
    short = stack.submit_many(3, steps=20, step_s=0.05)
    until(lambda: all(map(stack.ran, short)), 30)
    begun = time.monotonic()
    assert stack.stop(number) == 0
    told(f"{number.name} of the supervisor", {"seconds": time.monotonic() - begun})
    assert stack.left_behind() == []
    assert stack.states(short) == {"completed": 3}
    for id_ in long:
        job = stack.job(id_)
        assert (job.state, job.attempt, job.failures, job.crashes) == (State.AVAILABLE, 1, 0, 0)
        assert [attempt.outcome for attempt in stack.attempts(id_)] == ["handed_back"]


def test_the_end_of_standard_input_stops_an_ephemeral_stack(stack: Stack) -> None:
    stack.start("cpu:0")
    assert stack.process is not None
    assert stack.process.stdin is not None
    stack.words()
    stack.cards()
    stack.process.stdin.close()
    assert stack.process.wait(30) == 0
    assert stack.left_behind() == []


def _has_changed(stack: Stack, pid: int) -> bool:
    return any(process.pid != pid for process in stack.cards().values())


def test_a_card_that_keeps_dying_is_restarted_ever_more_slowly(stack: Stack) -> None:
    stack.start("cpu:0")
    starts = []
    for _ in range(3):
        before = stack.cards()["cpu:0"]
        before.kill()
        begun = time.monotonic()
        until(partial(_has_changed, stack, before.pid), 30, stack.words)
        starts.append(time.monotonic() - begun)
    told("restarts of a card", {f"after {n}": seconds for n, seconds in enumerate(starts, 1)})
    assert starts[0] >= 0.4
    assert starts[1] >= 0.9
    assert starts[2] >= 1.9
    ids = stack.submit_many(3)
    stack.await_final(ids)
    stack.assert_sound(ids)
    assert_stops_cleanly(stack)


# -- more than one fault -------------------------------------------------------------------------------


def test_a_second_supervisor_takes_over_broker_and_leadership_of_a_killed_one(
    sqlite_stack: StackMaker,
) -> None:
    first, second = sqlite_stack(), sqlite_stack()
    first.start("cpu:0")
    second.start("cpu:1")
    ids = second.submit_many(60, steps=20, step_s=0.02)
    until(lambda: len(second.runs()) >= 10, 30)
    first.stop(signal.SIGKILL)
    took = second.await_final(ids)
    repeated = second.assert_sound(ids, again=IN_HAND)
    told("kill -9 of the first of two supervisors", {"repeated": repeated, "seconds": took})
    assert second.states(ids) == {"completed": len(ids)}
    assert first.left_behind() == []
    assert_stops_cleanly(second)


def test_a_full_broker_ends_no_job_and_charges_nothing(stack: Stack, producer: Producer) -> None:
    stack.start("cpu:0")
    ids = busy(stack)
    broker = stack.redis()
    broker.config_set("maxmemory", "1")
    ids += [timed_submit(producer)[0] for _ in range(3)]
    time.sleep(3)
    broker.config_set("maxmemory", "256mb")
    took = stack.await_final(ids)
    told("a full broker", {"repeated": stack.assert_sound(ids, again=IN_HAND), "seconds": took})
    assert stack.states(ids) == {"completed": len(ids)}
    assert all(job.failures == job.crashes == 0 for job in map(stack.job, ids))
    assert_stops_cleanly(stack)


def test_pauses_and_drains_outlive_a_restart(stack: Stack, producer: Producer) -> None:
    stack.start("cpu:0", "cpu:1")
    producer.pause("drill")
    with stack.database.write() as connection:
        set_draining(connection, "cpu:0", draining=True)
    assert stack.stop() == 0
    ids = [producer.submit(model="drill", args={}).id for _ in range(20)]
    stack.start("cpu:0", "cpu:1")
    time.sleep(1.5)
    assert stack.states(ids) == {"available": 20}
    producer.resume("drill")
    stack.await_final(ids)
    assert {stack.job(id_).card for id_ in ids} == {"cpu:1"}
    assert set(Counter(stack.runs()).values()) == {1}
    assert_stops_cleanly(stack)


def test_repeated_and_foreign_messages_run_nothing(stack: Stack) -> None:
    stack.start("cpu:0")
    ids = stack.submit_many(3)
    stack.await_final(ids)
    publisher = Publisher(make_app(running_broker_url(stack.settings), RESPONSIVE))
    names = [*ids, *ids, "01AAAAAAAAAAAAAAAAAAAAAAAA", "nobody's", "a\0b"]
    publisher.publish([Wake(id=id_, kind="drill", model="drill", priority=4, attempt=0) for id_ in names])
    publisher.close()
    more = stack.submit_many(3)
    stack.await_final(more)
    until(lambda: not stack.redis().exists("unacked") and not stack.redis().llen(redis_key("drill", 6)), 20)
    assert stack.assert_sound([*ids, *more], again=0) == 0
    assert len(stack.runs()) == 6
    assert_stops_cleanly(stack)


def test_a_job_that_kills_its_worker_looks_like_an_accident_but_starves_nobody(stack: Stack) -> None:
    """Nobody can tell its SIGKILL from a person's, so nothing is charged; it waits ever longer instead."""
    stack.start("cpu:0")
    neighbours = stack.submit_many(3, steps=20, step_s=0.05)
    bad = stack.submit(what="kill", steps=8, step_s=0.05)[0]
    took = stack.await_final(neighbours, timeout_s=90)
    told("a job that sends SIGKILL", {"its runs": stack.job(bad).attempt, "until the others were done": took})
    assert stack.states(neighbours) == {"completed": 3}
    culprit = stack.job(bad)
    assert (culprit.state.final, culprit.crashes, culprit.failures) == (False, 0, 0)
    stack.cancel(bad)
    stack.await_final([bad])
    stack.assert_sound([bad, *neighbours])
    assert_stops_cleanly(stack)
