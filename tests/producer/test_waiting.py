"""Waiting: one watcher for all, one question per interval, whatever the number of waiters."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from soundmill.producer import Producer, Request, WaitTimedOut, lookup, waiting
from soundmill.storage.database import Database
from soundmill.storage.errors import NotFound, StorageUnavailable
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import JobView

from .playing import finish, serve, statements, worker_at_work


def submit(producer: Producer, count: int) -> list[str]:
    requests = [Request(model="espeak-ng", args={"text": str(number)}) for number in range(count)]
    return [job.id for job in producer.submit_graph(requests)]


@contextmanager
def after(seconds: float, action: Any, *args: Any, **named: Any) -> Iterator[None]:
    timer = threading.Timer(seconds, action, args, named)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_a_wait_returns_the_jobs_in_the_order_given(producer: Producer) -> None:
    first, second = submit(producer, 2)
    finish(producer, first, result={"n": 1})
    with after(0.2, finish, producer, second, state=State.DISCARDED, error="no", error_code="x"):
        views = producer.wait([second, first, second], timeout_s=10)

    assert [view.id for view in views] == [second, first, second]
    assert [view.state for view in views] == ["discarded", "completed", "discarded"]
    assert views[0].error == "no"
    assert views[1].result == {"n": 1}
    assert producer.wait([]) == []


def test_a_wait_says_which_jobs_were_not_final_in_time(producer: Producer) -> None:
    first, second = submit(producer, 2)
    finish(producer, first)
    began = time.monotonic()
    with pytest.raises(WaitTimedOut) as error:
        producer.wait([first, second], timeout_s=0.3)

    assert 0.25 < time.monotonic() - began < 2
    assert error.value.unfinished == (second,)
    assert isinstance(error.value, TimeoutError)
    assert producer.watcher.watched == 0


def test_a_wait_without_any_time_looks_once(producer: Producer) -> None:
    first, second = submit(producer, 2)
    finish(producer, first)
    assert producer.wait(first, timeout_s=0).state == State.COMPLETED
    assert [view.id for view in producer.results([first], timeout_s=0)] == [first]
    with pytest.raises(WaitTimedOut) as error:
        producer.wait([first, second], timeout_s=0)
    assert error.value.unfinished == (second,)

    async def go() -> None:
        assert (await producer.aio.wait(first, timeout_s=0)).state == State.COMPLETED
        assert [view.id async for view in producer.aio.results([first], timeout_s=0)] == [first]
        with pytest.raises(WaitTimedOut) as error:
            await producer.aio.wait([first, second], timeout_s=0)
        assert error.value.unfinished == (second,)

    asyncio.run(go())
    assert producer.watcher.watched == 0


def test_no_job_that_was_final_in_time_is_missed_by_a_slow_watcher(
    small_producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = lookup.watched

    def slow(*args: Any) -> Any:
        found = answer(*args)
        time.sleep(0.5)
        return found

    monkeypatch.setattr(lookup, "watched", slow)
    first, second, third, never = submit(small_producer, 4)
    finish(small_producer, first)
    assert small_producer.wait(first, timeout_s=0.05).state == State.COMPLETED
    # Final in time, but after the first look: only the one at the end can see it.
    with after(0.2, finish, small_producer, second):
        assert small_producer.wait(second, timeout_s=0.4).state == State.COMPLETED

    async def go() -> None:
        settling = asyncio.create_task(asyncio.to_thread(finish, small_producer, third))
        assert (await small_producer.aio.wait(third, timeout_s=0.4)).state == State.COMPLETED
        await settling
        with pytest.raises(WaitTimedOut) as error:
            await small_producer.aio.wait([third, never], timeout_s=0.1)
        assert error.value.unfinished == (never,)

    asyncio.run(go())


def test_all_who_give_up_together_share_their_last_look(small_producer: Producer) -> None:
    ids = submit(small_producer, 200)

    async def go() -> list[Any]:
        waits = [small_producer.aio.wait(job_id, timeout_s=0.5) for job_id in ids]
        return await asyncio.gather(*waits, return_exceptions=True)

    with statements(small_producer.database) as seen:
        assert all(isinstance(outcome, WaitTimedOut) for outcome in asyncio.run(go()))
    assert len([statement for statement in seen if statement.startswith("SELECT jobs.id")]) < 40


def test_a_job_table_that_hangs_holds_nobody_for_ever(
    small_producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = submit(small_producer, 1)
    hanging = threading.Event()
    monkeypatch.setattr(waiting, "LAST_LOOK_S", 0.2)
    monkeypatch.setattr(lookup, "watched", lambda *args: hanging.wait(20) and {})
    began = time.monotonic()
    with pytest.raises(WaitTimedOut):
        small_producer.wait(job, timeout_s=0.1)
    with pytest.raises(WaitTimedOut):
        asyncio.run(small_producer.aio.wait(job, timeout_s=0.1))
    hanging.set()
    assert time.monotonic() - began < 10


def test_a_wait_for_a_job_that_nobody_has_ends_at_once(producer: Producer) -> None:
    [job] = submit(producer, 1)
    with pytest.raises(NotFound, match="there is no job 01ARZ3NDEKTSV4RRFFQ69G5FAV"):
        producer.wait([job, "01ARZ3NDEKTSV4RRFFQ69G5FAV"], timeout_s=10)
    assert producer.watcher.watched == 0


def test_a_thousand_tasks_wait_with_one_question_per_interval_and_five_threads(producer: Producer) -> None:
    ids = submit(producer, 1000)
    before = threading.active_count()
    most = 0

    async def wait_for_all() -> list[JobView]:
        nonlocal most
        tasks = [asyncio.create_task(producer.aio.wait(job_id, timeout_s=60)) for job_id in ids]
        while not all(task.done() for task in tasks[:1]):
            most = max(most, threading.active_count() - before)
            await asyncio.sleep(0.02)
        return await asyncio.gather(*tasks)

    with statements(producer.database) as seen, after(1.0, finish, producer, *ids):
        views = asyncio.run(wait_for_all())

    asked = [
        statement for statement in seen if "FROM jobs" in statement and statement.startswith("SELECT jobs.id")
    ]
    # A second at 20 to 250 ms, and the time that it takes to settle them.
    assert len(asked) < 60
    assert [view.id for view in views] == ids
    assert most <= 5


def test_many_calls_at_once_share_four_threads(small_producer: Producer) -> None:
    before = threading.active_count()

    async def go() -> int:
        requests = [Request(model="espeak-ng", args={"text": "a"}) for _ in range(60)]
        tasks = [asyncio.create_task(small_producer.aio.submit(request)) for request in requests]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, threading.active_count() - before)
            await asyncio.sleep(0.005)
        return most

    assert asyncio.run(go()) <= 4


def test_the_interval_grows_while_nothing_happens(small_producer: Producer) -> None:
    [job] = submit(small_producer, 1)
    with statements(small_producer.database) as seen, pytest.raises(WaitTimedOut):
        small_producer.wait(job, timeout_s=2)

    questions = [statement for statement in seen if statement.startswith("SELECT jobs.id")]
    assert 2 <= len(questions) <= 25  # a busy machine asks less often


def test_a_short_job_is_seen_within_fifty_milliseconds(small_producer: Producer) -> None:
    serve(small_producer.database, "espeak-ng")
    delays = []
    for job in submit(small_producer, 9):
        with after(0.03, finish, small_producer, job):
            view = small_producer.wait(job, timeout_s=10)
            delays.append(time.time() - (view.finished_at or 0))

    assert sorted(delays)[len(delays) // 2] < 0.05


def test_a_task_that_is_cancelled_leaves_no_waiter_and_the_job_alone(small_producer: Producer) -> None:
    [job] = submit(small_producer, 1)

    async def go() -> None:
        task = asyncio.create_task(small_producer.aio.wait(job))
        await asyncio.sleep(0.1)
        assert small_producer.watcher.watched == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert small_producer.watcher.watched == 0
        with pytest.raises(WaitTimedOut):
            await small_producer.aio.wait([job], timeout_s=0.05)
        with pytest.raises(NotFound):
            await small_producer.aio.wait("nobody", timeout_s=5)

    asyncio.run(go())
    assert small_producer.get(job).state == State.AVAILABLE


def test_everything_can_be_done_from_coroutines(producer: Producer) -> None:
    async def go() -> None:
        aio = producer.aio
        first = await aio.submit(model="espeak-ng", args={"text": "one"}, batch="b")
        [second] = await aio.submit_graph([Request(model="espeak-ng", args={"text": "two"}, batch="b")])
        many = [
            item
            async for item in aio.submit_many([Request(model="espeak-ng", args={"text": "x"}, batch="b")])
        ]
        assert [item.index for item in many] == [0]
        await aio.cancel(second)
        assert (await aio.wait(second, timeout_s=5)).state == State.CANCELLED
        await aio.retry(second)
        assert (await aio.get(second.id)).state == State.AVAILABLE
        ids = {first.id, second.id, *(item.job.id for item in many if item.job)}
        await asyncio.to_thread(finish, producer, *ids)
        assert {view.id async for view in aio.results(batch="b", timeout_s=10)} == ids
        assert await aio.artifacts(first.id) == []
        assert [attempt.outcome for attempt in await aio.attempts(first.id)] == ["completed"]

    asyncio.run(go())


def test_a_wait_survives_an_outage_of_the_job_table(
    small_producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = submit(small_producer, 1)
    down = threading.Event()
    answer = lookup.watched

    def watched(*args: Any) -> Any:
        if down.is_set():
            raise StorageUnavailable("the job table did not answer: test")
        return answer(*args)

    monkeypatch.setattr(lookup, "watched", watched)
    down.set()
    with after(0.5, down.clear), after(0.2, finish, small_producer, job):
        assert small_producer.wait(job, timeout_s=10).state == State.COMPLETED

    [other] = submit(small_producer, 1)
    down.set()
    began = time.monotonic()
    with pytest.raises(WaitTimedOut):
        small_producer.wait(other, timeout_s=0.3)
    assert time.monotonic() - began < 2


def test_a_wait_survives_the_restart_of_postgresql(
    postgres_url: str, postgres_server: Any, tmp_path: Any
) -> None:
    from soundmill.storage.settings import Settings

    with Producer(Settings(state_dir=tmp_path, database_url=postgres_url)) as producer:
        [job] = submit(producer, 1)
        found: list[JobView] = []
        thread = threading.Thread(target=lambda: found.append(producer.wait(job, timeout_s=60)))
        thread.start()
        time.sleep(0.3)
        postgres_server.stop("immediate")
        time.sleep(0.5)
        postgres_server.start()
        database = Database(postgres_url)
        finish(producer, job)
        thread.join()
        database.close()

    assert [view.state for view in found] == [State.COMPLETED]


def test_an_unforeseen_error_reaches_those_who_wait(
    small_producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = submit(small_producer, 1)

    def fail(*args: Any) -> Any:
        raise ZeroDivisionError("test")

    with monkeypatch.context() as patch:
        patch.setattr(lookup, "watched", fail)
        with pytest.raises(ZeroDivisionError):
            small_producer.wait(job, timeout_s=10)
    finish(small_producer, job)
    assert small_producer.wait(job, timeout_s=10).state == State.COMPLETED


def test_closing_the_producer_wakes_those_who_wait(small_producer: Producer) -> None:
    [job] = submit(small_producer, 1)
    with after(0.2, small_producer.close), pytest.raises(RuntimeError, match="was closed"):
        small_producer.wait(job, timeout_s=10)


def test_results_come_as_the_jobs_finish(small_producer: Producer) -> None:
    ids = submit(small_producer, 6)
    with worker_at_work(small_producer.database):
        assert {view.id for view in small_producer.results(ids, timeout_s=10)} == set(ids)
    late = submit(small_producer, 1)
    with pytest.raises(WaitTimedOut):
        list(small_producer.results(late, timeout_s=0.1))


def test_a_producer_works_in_a_forked_child(small_producer: Producer) -> None:
    [job] = submit(small_producer, 1)
    finish(small_producer, job)
    assert small_producer.wait(job, timeout_s=10).state == State.COMPLETED
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if small_producer.wait(job, timeout_s=10).state == State.COMPLETED else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
