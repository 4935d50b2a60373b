"""The threads that wait for the card, and how many messages each queue may have in hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo

from soundmill.worker.pool import CardPool, Intake, pool_with

from .running import until


class Hub:
    """A consumer whose hub's thread is the test's own: nothing happens before `turn`."""

    def __init__(self, *queues: str) -> None:
        self.consumed = set(queues)
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        self.calls.append((function, args))

    def add_task_queue(self, queue: str) -> None:
        assert queue not in self.consumed
        self.consumed.add(queue)

    def cancel_task_queue(self, queue: str) -> None:
        self.consumed.remove(queue)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for function, args in calls:
            function(*args)


def attached(**limits: int) -> tuple[Intake, Hub]:
    intake, hub = Intake(limits), Hub(*limits)
    intake.attach(hub)
    hub.turn()
    return intake, hub


# -- the intake ----------------------------------------------------------------------------------------


def test_a_full_queue_is_left_and_joined_again_when_there_is_room() -> None:
    intake, hub = attached(slow=2, quick=3)
    assert intake.total == 5
    intake.entered("slow")
    assert hub.consumed == {"slow", "quick"}
    intake.entered("slow")
    assert hub.consumed == {"quick"}
    intake.left("slow")
    assert hub.consumed == {"quick"}, "only the hub's own thread may touch the consumer"
    hub.turn()
    assert hub.consumed == {"slow", "quick"}


def test_one_queue_alone_is_bounded_by_the_prefetch_limit_and_never_left() -> None:
    intake, hub = attached(only=1)
    intake.entered("only")
    assert hub.consumed == {"only"}
    intake.left("only")
    assert not hub.calls


def test_a_draining_worker_consumes_nothing_until_it_goes_on() -> None:
    intake, hub = attached(only=2)
    intake.drain(True)
    intake.drain(True)
    assert len(hub.calls) == 1
    hub.turn()
    assert hub.consumed == set()
    intake.left("only")
    hub.turn()
    assert hub.consumed == set()
    intake.drain(False)
    hub.turn()
    assert hub.consumed == {"only"}


def test_a_worker_that_starts_draining_leaves_its_queues_as_soon_as_it_has_them() -> None:
    intake, hub = Intake({"one": 2, "two": 2}), Hub("one", "two")
    intake.drain(True)
    intake.attach(hub)
    hub.turn()
    assert hub.consumed == set()


def test_after_a_reconnect_a_full_queue_is_left_again() -> None:
    intake, hub = attached(slow=1, quick=1)
    intake.entered("slow")
    assert hub.consumed == {"quick"}
    hub.consumed = {"slow", "quick"}  # Celery consumes everything again
    intake.attach(hub)
    hub.turn()
    assert hub.consumed == {"quick"}


def test_many_threads_leave_without_losing_count() -> None:
    intake, hub = attached(a=50, b=50)
    for _ in range(50):
        intake.entered("a")
    threads = [threading.Thread(target=intake.left, args=("a",)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hub.turn()
    assert hub.consumed == {"a", "b"}
    assert intake._in_hand["a"] == 0


# -- the pool ------------------------------------------------------------------------------------------


class Desk:
    """A pool with its intake, and what it reported."""

    def __init__(self) -> None:
        self.intake, self.hub = attached(drill=2, other=2)
        self.terminated: list[str] = []
        self.done: list[Any] = []
        self.failed: list[ExceptionInfo] = []
        self.accepted: list[int] = []
        self.pool: CardPool = pool_with(self.intake, self.terminated.append)(limit=2)

    def put(self, work: Callable[[], Any], job: str = "job") -> Any:
        return self.pool.on_apply(
            work,
            callback=self.done.append,
            accept_callback=lambda pid, _: self.accepted.append(pid),
            error_callback=self.failed.append,
            correlation_id=job,
        )

    @property
    def in_hand(self) -> int:
        return sum(self.intake._in_hand.values())


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.pool.on_stop()


def test_the_result_of_a_task_is_called_back(desk: Desk) -> None:
    desk.put(lambda: 7).wait(10)
    assert desk.done == [7]
    assert desk.in_hand == 0


class Escape(BaseException):
    """An error that no handler of Celery expects."""


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(1), Escape()])
def test_no_slot_leaks_when_something_escapes(desk: Desk, error: BaseException) -> None:
    def fail() -> None:
        raise error

    for _ in range(5):  # more than there are threads
        desk.put(fail).wait(10)
    until(lambda: len(desk.failed) + len(desk.done) == 5, 10)
    assert desk.in_hand == 0
    desk.put(lambda: "still here").wait(10)
    assert desk.done[-1] == "still here"


def test_no_slot_leaks_when_even_the_report_fails(desk: Desk) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError

    desk.pool.on_apply(fail, (), error_callback=fail).wait(10)
    assert desk.in_hand == 0
    desk.put(lambda: "still here").wait(10)
    assert desk.done == ["still here"]


def test_a_thread_is_terminated_by_the_job_that_it_runs(desk: Desk) -> None:
    go_on = threading.Event()
    running = desk.put(lambda: go_on.wait(20), job="the job")
    until(lambda: desk.accepted, 10)
    desk.pool.terminate_job(desk.accepted[0], 15)
    desk.pool.terminate_job(12345)
    assert desk.terminated == ["the job"]
    go_on.set()
    running.wait(10)
    desk.pool.terminate_job(desk.accepted[0], 15)
    assert desk.terminated == ["the job"], "the thread may run another job by now"


def test_messages_are_counted_by_the_queue_that_they_came_from(desk: Desk) -> None:
    go_on = threading.Event()
    request = ("soundmill.drill", "id", {"delivery_info": {"routing_key": "drill"}}, b"", "json", "utf-8")
    handles = [
        desk.pool.on_apply(lambda *_: go_on.wait(20), request, callback=desk.done.append) for _ in range(2)
    ]
    assert desk.hub.consumed == {"other"}
    go_on.set()
    for handle in handles:
        handle.wait(10)
    desk.hub.turn()
    assert desk.hub.consumed == {"drill", "other"}


def test_each_process_has_a_pool_class_of_its_own() -> None:
    first, second = Intake({"a": 1}), Intake({"b": 1})
    assert pool_with(first, print).intake is first
    assert pool_with(second, print).intake is second
