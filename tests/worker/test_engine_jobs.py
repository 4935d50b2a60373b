"""Jobs of a model in the engine, the whole way: broker, worker, engine, job table."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from soundmill.models.device import open_device
from soundmill.models.engine.engine import CardEngine
from soundmill.models.engine.watch import WHO, Limits
from soundmill.models.place import ModelOptions
from soundmill.storage.lifecycle import State
from soundmill.storage.submission import NewJob, request_digest
from soundmill.worker.pulse import Pulse

from ..plugins.toy import STOP, Babbler, Prompt
from .conftest import StackMaker
from .running import Stack, until


def toy(stack: Stack, **args: Any) -> NewJob:
    complete = stack.catalog.get("toy").parse(args).model_dump()
    return stack.new(model="toy", kind="toy", args=complete, digest=request_digest("toy", "toy", complete))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_jobs_share_steps_and_a_broken_card_loses_none_of_them(sqlite_stack: StackMaker) -> None:
    stack = sqlite_stack(plugins=["drill", "toy_model"], model_options={"toy": {"slots": 4}})
    stack.start("cpu:0", "cpu:1", model="toy")

    whole = stack.submit(*(toy(stack, seed=seed, steps=100) for seed in range(12)))
    before = [stack.await_state(job_id, State.COMPLETED) for job_id in whole]
    assert all(len((job.result or {})["numbers"]) == 100 for job in before)
    assert max(int((job.metrics or {})["batch_size"]) for job in before) >= 2
    del before[4:]

    again = stack.submit(
        *(toy(stack, seed=seed, steps=100) for seed in range(4)), toy(stack, steps=50, breaks_card=True)
    )
    after = [stack.await_state(job_id, State.COMPLETED) for job_id in again]
    assert [job.result for job in after[:4]] == [job.result for job in before]  # also those that began again
    assert stack.attempts(again[-1])[0].outcome == "crashed"
    until(lambda: "status=70" in stack.words(), 10)

    unlucky = replace(toy(stack, steps=13), max_failures=2)
    others = stack.submit(*(toy(stack, seed=seed, steps=100) for seed in range(4)), unlucky)
    bad = stack.await_state(others.pop(), State.DISCARDED)
    assert (bad.error_code, bad.failures, bad.crashes) == ("handler_error", 2, 0)
    assert bad.error == "the model failed with ValueError: thirteen numbers"
    harmed = [stack.await_state(job_id, State.COMPLETED) for job_id in others]
    assert [job.result for job in harmed] == [job.result for job in before]
    assert all(job.attempt == 1 for job in harmed)


def test_a_step_that_hangs_makes_the_process_stuck_whoever_else_moves() -> None:
    hang, released = threading.Event(), threading.Event()

    class Hanging(Babbler):
        def step(self, bucket: int, rows: Sequence[Any]) -> Any:
            if rows and not released.is_set():
                hang.set()
                released.wait(30)
            return super().step(bucket, rows)

    device, pulse = open_device("cpu", threads=1), Pulse(None)
    engine = CardEngine(device, watch=pulse, limits=Limits(step=0.2))
    engine.add_slots("toy", Hanging(device), options=ModelOptions(slots=1))
    engine.open()
    with pulse.watching("a handler", 60):
        request = engine.generate("toy", Prompt(ids=(1,), never=(STOP,)), positions=1, max_steps=3)
        assert hang.wait(30)
        assert not pulse.stuck("a handler")
        until(lambda: pulse.stuck(WHO), 10)
        released.set()
        assert request.result(30).steps == 3
        until(lambda: not pulse.stuck(WHO), 10)
    engine.close()
