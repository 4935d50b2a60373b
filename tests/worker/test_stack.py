"""What the running stack promises while nothing is broken. The tests share one stack and clean up after themselves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from soundmill.producer import Producer
from soundmill.storage.decisions import set_draining, set_paused
from soundmill.storage.lifecycle import State
from soundmill.storage.priorities import step_of
from soundmill.storage.rows import Artifact, Job

from .running import PLUGINS, SLACK_S, Stack, told, until

pytestmark = pytest.mark.slow

STEP_S = 0.05


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with two cards and one producer for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGINS)
        folder = tmp_path_factory.mktemp("stack")
        stack = Stack(folder, f"sqlite:///{folder}/soundmill.db")
        try:
            stack.start("cpu:0", "cpu:1")
            yield stack
            assert stack.stop() == 0, stack.words()
            assert stack.left_behind() == []
        finally:
            stack.close()


@pytest.fixture
def producer(shared: Stack) -> Iterator[Producer]:
    with Producer(settings=shared.settings) as producer:
        yield producer


def running(stack: Stack, steps: int = 2000) -> str:
    """A job that a card is busy with."""
    id_ = stack.submit(steps=steps, step_s=STEP_S)[0]
    until(lambda: stack.ran(id_), 30, stack.words)
    return id_


def test_a_job_goes_from_submit_to_settle_in_a_moment(shared: Stack, producer: Producer) -> None:
    producer.wait(producer.submit(model="drill", args={}), timeout_s=30)
    times = []
    for _ in range(20):
        begun = time.monotonic()
        job = producer.wait(producer.submit(model="drill", args={}), timeout_s=30)
        times.append(time.monotonic() - begun)
        assert job.state == State.COMPLETED
    told("idle, submit → wait", {"p50": sorted(times)[10], "worst": max(times)})


def test_a_worker_is_named_by_its_card_and_keeps_what_it_makes(shared: Stack, producer: Producer) -> None:
    job = producer.wait(producer.submit(model="drill", args={"what": "write", "text": "kept"}), timeout_s=30)
    assert job.card in ("cpu:0", "cpu:1")
    assert str(job.worker).startswith(f"{str(job.card).replace(':', '-')}@")
    with producer.open_artifact(job.id, "out.txt") as file:
        assert file.read() == b"kept"


def test_a_deadline_ends_a_job_that_runs(shared: Stack) -> None:
    id_ = shared.submit(steps=2000, step_s=STEP_S, timeout_s=1.5)[0]
    job = shared.await_state(id_, State.DISCARDED, timeout_s=20)
    assert job.error_code == "deadline_exceeded"
    assert job.finished_at is not None
    assert job.deadline_at is not None
    told("a deadline while it runs", {"late by": job.finished_at - job.deadline_at})
    assert [attempt.outcome for attempt in shared.attempts(id_)] == ["discarded"]
    assert job.failures == 0


def test_a_deadline_ends_a_job_that_waits(shared: Stack) -> None:
    id_ = shared.submit(delay_s=3600, timeout_s=0.5)[0]
    job = shared.await_state(id_, State.DISCARDED, timeout_s=20)
    assert (job.error_code, job.attempt) == ("deadline_exceeded", 0)


def test_a_cancelled_job_that_waits_never_runs(shared: Stack, producer: Producer) -> None:
    job = producer.submit(model="drill", args={}, delay_s=3600)
    producer.cancel(job)
    assert producer.get(job.id).state == State.CANCELLED
    assert not shared.ran(job.id)


def test_a_cancelled_job_that_runs_stops_within_a_second_and_a_step(
    shared: Stack, producer: Producer
) -> None:
    id_ = running(shared)
    begun = time.monotonic()
    producer.cancel(id_)
    job = shared.await_state(id_, State.CANCELLED)
    took = time.monotonic() - begun
    told("a cancel by broadcast", {"seconds": took})
    assert took < 1 + STEP_S + SLACK_S
    assert job.error_code == "cancelled"


def test_a_heartbeat_brings_a_cancel_that_no_broadcast_brought(shared: Stack) -> None:
    id_ = running(shared)
    begun = time.monotonic()
    shared.cancel(id_)
    shared.await_state(id_, State.CANCELLED)
    took = time.monotonic() - begun
    told("a cancel by heartbeat", {"seconds": took})
    assert took < shared.settings.heartbeat_s + STEP_S + SLACK_S


def test_a_job_can_be_retried_under_its_id_after_a_cancel(shared: Stack, producer: Producer) -> None:
    id_ = running(shared, steps=60)
    producer.cancel(id_)
    shared.await_state(id_, State.CANCELLED)
    producer.retry(id_)
    job = shared.await_state(id_, State.COMPLETED, timeout_s=30)
    assert job.attempt == 2
    assert [attempt.outcome for attempt in shared.attempts(id_)] == ["cancelled", "completed"]


def test_a_handler_that_exits_is_charged_and_its_process_stays(shared: Stack) -> None:
    before = {card: process.pid for card, process in shared.cards().items()}
    neighbours = shared.submit_many(6, steps=10, step_s=STEP_S)
    id_ = shared.submit(what="exit", max_failures=2)[0]
    job = shared.await_state(id_, State.DISCARDED, timeout_s=30)
    shared.await_final(neighbours)
    assert (job.error_code, job.failures) == ("handler_error", 2)
    assert shared.states(neighbours) == {"completed": 6}
    assert {card: process.pid for card, process in shared.cards().items()} == before


@pytest.mark.parametrize(
    ("what", "code", "attempts"),
    [("fail", "handler_error", 2), ("oom", "out_of_memory", 2), ("refuse", "bad_input", 1),
     ("nan", "unstorable_result", 1)],
)  # fmt: skip
def test_a_job_that_fails_says_why(shared: Stack, what: str, code: str, attempts: int) -> None:
    id_ = shared.submit(what=what, max_failures=2)[0]
    job = shared.await_state(id_, State.DISCARDED, timeout_s=30)
    assert (job.error_code, job.attempt) == (code, attempts)
    assert job.error


def test_a_child_starts_as_soon_as_its_parent_settles(shared: Stack) -> None:
    waits = []
    for _ in range(5):
        parent = shared.new(steps=10, step_s=STEP_S)
        child = shared.new(parents=(parent.id,))
        shared.submit(parent, child)
        shared.await_final([parent.id, child.id])
        begun, ended = shared.job(child.id).started_at, shared.job(parent.id).finished_at
        assert begun is not None
        assert ended is not None
        waits.append(begun - ended)
    told("a child after its parent", {"best": min(waits), "worst": max(waits)})
    assert min(waits) < 0.1
    assert sorted(waits)[2] < 0.3


def test_a_high_priority_overtakes_five_hundred_low_ones(shared: Stack, producer: Producer) -> None:
    low = shared.submit_many(500, steps=4, step_s=STEP_S, priority=1)
    until(lambda: len({job for job, _ in shared.runs()} & set(low)) >= 30, 30)
    high = [producer.submit(model="drill", args={"steps": 4}, priority=9).id for _ in range(20)]
    shared.await_final([*low, *high], timeout_s=90)
    worst = max(_wait(shared, id_) for id_ in high)
    told("a high priority among 500 low ones", {"longest wait": worst, "overtook": _later(shared, low, high)})
    assert worst < 5
    _assert_none_waited_while_a_lower_one_began(shared, [*low, *high], 5.0)
    assert _later(shared, low, high) > 200


def _wait(stack: Stack, id_: str) -> float:
    with stack.database.read() as connection:
        row = connection.execute(select(Job.started_at, Job.submitted_at).where(Job.id == id_)).one()
    return float(row.started_at - row.submitted_at)


def _later(stack: Stack, low: list[str], high: list[str]) -> int:
    """How many of the low ones began after all the high ones."""
    with stack.database.read() as connection:
        begun = {row.id: row.started_at for row in connection.execute(select(Job.id, Job.started_at))}
    return sum(begun[id_] > max(begun[other] for other in high) for id_ in low)


def _assert_none_waited_while_a_lower_one_began(stack: Stack, ids: list[str], at_most_s: float) -> None:
    with stack.database.read() as connection:
        query = select(Job.id, Job.priority, Job.submitted_at, Job.started_at).where(Job.id.in_(ids))
        rows = connection.execute(query).all()
    for row in rows:
        waiting = [
            other
            for other in rows
            if step_of(other.priority) < step_of(row.priority)
            and other.submitted_at + at_most_s < row.started_at < other.started_at
        ]
        assert not waiting, f"{row} began while {waiting[0]} waited"


def test_a_paused_queue_starts_nothing_until_it_is_resumed(shared: Stack, producer: Producer) -> None:
    producer.pause("drill")
    ids = [producer.submit(model="drill", args={}).id for _ in range(5)]
    time.sleep(1.5)
    assert shared.states(ids) == {"available": 5}
    assert not any(map(shared.ran, ids))
    producer.resume("drill")
    shared.await_final(ids)
    assert shared.states(ids) == {"completed": 5}


def test_a_draining_card_finishes_what_it_has_and_takes_nothing_new(shared: Stack) -> None:
    held = [running(shared, steps=80) for _ in range(6)]
    on_first = [id_ for id_ in held if shared.job(id_).card == "cpu:0"]
    _drain(shared, "cpu:0", draining=True)
    time.sleep(2 * shared.settings.heartbeat_s + 0.5)
    ids = shared.submit_many(20, steps=2, step_s=STEP_S)
    shared.await_final([*ids, *held])
    assert {shared.job(id_).card for id_ in ids} == {"cpu:1"}
    assert shared.states(on_first) == ({"completed": len(on_first)} if on_first else {})
    _drain(shared, "cpu:0", draining=False)
    time.sleep(2 * shared.settings.heartbeat_s + 0.5)
    ids = shared.submit_many(40, steps=10, step_s=STEP_S)
    shared.await_final(ids)
    assert {shared.job(id_).card for id_ in ids} == {"cpu:0", "cpu:1"}


def _drain(stack: Stack, card: str, *, draining: bool) -> None:
    with stack.database.write() as connection:
        set_draining(connection, card, draining=draining)


def test_a_card_of_this_host_has_one_process_only(shared: Stack) -> None:
    ids = shared.submit_many(4, steps=60, step_s=STEP_S)
    done = subprocess.run(
        [sys.executable, "-m", "soundmill.worker", "up", "--no-flower", "--card", "cpu:0", "--model", "drill"],
        env=shared.environment() | {"SOUNDMILL_SHUTDOWN_GRACE_S": "0"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "another process of this host holds cpu:0; stop it or choose another card" in done.stderr
    shared.await_final(ids)
    assert shared.states(ids) == {"completed": 4}


def test_a_cancel_of_many_and_a_pause_leave_the_counters_true(shared: Stack, producer: Producer) -> None:
    ids = shared.submit_many(40, steps=40, step_s=STEP_S)
    until(lambda: shared.states(ids)["executing"] >= 8, 30)
    producer.cancel(ids)
    shared.await_final(ids, timeout_s=20)
    with shared.database.write() as connection:
        set_paused(connection, shared.database, "drill", paused=False)
    shared.assert_sound(ids)
    with shared.database.read() as connection:
        stray = select(Artifact.job_id).where(Artifact.job_id.in_(ids))
        assert connection.execute(stray).all() == []


# -- the end -------------------------------------------------------------------------------------------

STOPPER = (
    "import sys; from soundmill.worker.stack import Stop; stop = Stop(at_end_of_input=len(sys.argv) > 1); "
    "print('waits', flush=True); sys.exit(0 if stop.wait(60) and stop.wait(0) else 1)"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", STOPPER], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"waits\n"
    process.send_signal(number)
    assert process.wait(30) == 0
    process.stdout.close()


def test_the_end_of_input_ends_the_wait_also_where_there_was_none() -> None:
    command = [sys.executable, "-c", STOPPER, "ephemeral"]
    assert (
        subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        ).returncode
        == 0
    )
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    assert subprocess.run(closed, capture_output=True, timeout=60, check=False).returncode == 0
