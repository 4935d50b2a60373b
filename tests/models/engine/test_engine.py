"""The engine with small real models, and with what can go wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from soundmill.models.device import Device
from soundmill.models.engine.engine import CardEngine
from soundmill.models.engine.ports import Item, Row, Stops
from soundmill.models.engine.request import Request
from soundmill.models.engine.watch import Limits
from soundmill.models.errors import Cancelled, CardFailed, InputError, OutOfMemory, ShuttingDown
from soundmill.models.place import ModelOptions

from ...plugins.toy import CONTEXT, STOP, Babbler, Counter, Prompt
from ..speech import FakeRun
from .conftest import EngineMaker

LIMIT_S = 30.0


def out_of_memory() -> Exception:
    error: Exception = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has too little"
    )
    return error


def endless(seed: int, length: int = 3) -> Prompt:
    return Prompt(ids=tuple(1 + number % 60 for number in range(length)), seed=seed, never=(STOP,))


def ask(engine: CardEngine, prompt: Prompt, max_steps: int = 20) -> Request[Any]:
    return engine.generate("toy", prompt, positions=len(prompt.ids), max_steps=max_steps)


def value(request: Request[Any]) -> list[int]:
    made: list[int] = request.result(LIMIT_S).value
    return made


class Shaky(Babbler):
    """A toy to which a test can do things before each call."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.before_prefill: Callable[[Sequence[Row[Prompt]], int], None] = lambda rows, budget: None
        self.before_step: Callable[[int, Sequence[Row[Prompt]]], None] = lambda bucket, rows: None
        self.before_reserve: Callable[[int], None] = lambda slots: None
        self.before_release: Callable[[Row[Prompt], int], None] = lambda row, steps: None

    def prefill(self, rows: Sequence[Row[Prompt]], token_budget: int) -> None:
        self.before_prefill(rows, token_budget)
        super().prefill(rows, token_budget)

    def step(self, bucket: int, rows: Sequence[Row[Prompt]]) -> Stops:
        self.before_step(bucket, rows)
        return super().step(bucket, rows)

    def reserve(self, slots: int) -> None:
        self.before_reserve(slots)
        super().reserve(slots)

    def release(self, row: Row[Prompt], steps: int) -> Any:
        self.before_release(row, steps)
        return super().release(row, steps)


@pytest.fixture
def toy(device: Device) -> Shaky:
    return Shaky(device)


@pytest.fixture(params=[True, False], ids=["flags a step late", "flags at once"])
def engine(toy: Shaky, make_engine: EngineMaker, request: pytest.FixtureRequest) -> CardEngine:
    engine = make_engine(late=request.param)
    engine.add_slots("toy", toy, options=ModelOptions(slots=4), decoder=Counter())
    engine.open()
    return engine


@pytest.fixture
def expected(device: Device, make_engine: EngineMaker) -> Callable[..., list[int]]:
    """What a request makes in an engine of its own."""
    quiet = make_engine()
    quiet.add_slots("toy", Babbler(device), options=ModelOptions(slots=1), decoder=Counter())
    quiet.open()
    return lambda prompt, max_steps=20: value(ask(quiet, prompt, max_steps))


# -- what it is for ------------------------------------------------------------------------------------


def test_requests_of_many_threads_share_steps_and_get_what_they_would_get_alone(
    engine: CardEngine, expected: Callable[..., list[int]]
) -> None:
    prompts = [endless(seed, length=1 + 5 * seed) for seed in range(9)]
    made: dict[int, list[int]] = {}

    def perform(number: int) -> None:
        time.sleep(0.003 * number)
        made[number] = value(ask(engine, prompts[number], 25))

    threads = [threading.Thread(target=perform, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == {number: expected(prompt, 25) for number, prompt in enumerate(prompts)}


def test_a_result_tells_how_it_came_to_be(engine: CardEngine) -> None:
    requests = [ask(engine, endless(seed), 30) for seed in range(4)]
    results = [request.result(LIMIT_S) for request in requests]
    for result in results:
        assert (result.steps, result.stopped, len(result.value)) == (30, False, 30)
        metrics = dict(result.metrics)
        assert {
            "queue_s",
            "prefill_s",
            "first_step_s",
            "generation_s",
            "decode_s",
            "step_ms",
        } <= metrics.keys()
        assert metrics["dtype"] == "fp32"
        assert all(metrics[name] >= 0 for name in metrics if name.endswith("_s"))
        assert 0 < float(metrics["step_ms"]) < 1000 * float(metrics["generation_s"])
    assert max(int(result.metrics["batch_size"]) for result in results) >= 2
    assert {result.metrics["bucket"] for result in results} <= {1, 2, 4}


def test_a_row_ends_where_its_model_says(engine: CardEngine) -> None:
    short = ask(engine, Prompt(ids=(4, 5, 6), never=tuple(range(1, 64))))
    assert short.result(LIMIT_S).stopped
    assert short.result(LIMIT_S).steps == 0
    assert value(short) == []


def test_benchmarks_may_have_it_go_on(toy: Shaky, make_engine: EngineMaker) -> None:
    engine = make_engine(ignore_stops=True)
    engine.add_slots("toy", toy, options=ModelOptions(slots=1))
    engine.open()
    request = ask(engine, Prompt(ids=(4, 5, 6), never=tuple(range(1, 64))), 17)
    assert request.result(LIMIT_S).value.tolist() == [STOP] * 17


def test_what_does_not_fit_into_a_slot_is_refused_at_once(engine: CardEngine) -> None:
    with pytest.raises(
        InputError, match=r"takes 150 positions .* more than the 160 of toy; shorten the input"
    ):
        ask(engine, endless(1, length=150), max_steps=11)
    assert len(value(ask(engine, endless(1, length=150), max_steps=10))) == 10
    assert CONTEXT == 160


def test_rows_close_up_when_most_have_left(engine: CardEngine, toy: Shaky) -> None:
    buckets: list[int] = []
    toy.before_step = lambda bucket, rows: buckets.append(bucket)
    gate = threading.Event()
    engine.call(lambda: gate.wait(LIMIT_S) and None)
    requests = [ask(engine, endless(seed), 3) for seed in range(3)]
    last = ask(engine, endless(9), 40)
    gate.set()
    assert len(value(last)) == 40
    assert [len(value(request)) for request in requests] == [3, 3, 3]
    assert buckets[0] == 4
    assert buckets[-1] == 1


def test_a_reproducible_model_always_takes_the_same_step(toy: Shaky, make_engine: EngineMaker) -> None:
    engine = make_engine()
    engine.add_slots("toy", toy, options=ModelOptions(slots=4, reproducible=True))
    engine.open()
    buckets: set[int] = set()
    together: set[int] = set()
    toy.before_step = lambda bucket, rows: buckets.add(bucket)
    toy.before_prefill = lambda rows, budget: together.add(len(rows))
    for request in [ask(engine, endless(seed)) for seed in range(3)]:
        request.result(LIMIT_S)
    assert (buckets, together) == ({4}, {1})


def test_nothing_is_taken_before_it_is_open_nor_added_after(toy: Shaky, make_engine: EngineMaker) -> None:
    engine = make_engine()
    engine.add_slots("toy", toy, options=ModelOptions(slots=1))
    with pytest.raises(RuntimeError, match="not open yet"):
        ask(engine, endless(1))
    with pytest.raises(ValueError, match="there is a model 'toy' already"):
        engine.add_slots("toy", toy, options=ModelOptions(slots=1))
    engine.open()
    with pytest.raises(RuntimeError, match="before the engine opens"):
        engine.add_batch("other", Counter())


def test_slots_are_counted_by_the_memory_that_is_left(toy: Shaky, make_engine: EngineMaker) -> None:
    engine = make_engine()
    engine.add_slots("toy", toy, options=ModelOptions())
    engine.open()
    assert engine.slots("toy") == 8  # what makes a processor faster; far more would fit


def test_two_models_may_share_their_weights_and_differ_in_length(
    device: Device, make_engine: EngineMaker
) -> None:
    engine = make_engine()
    short, long = Babbler(device), Babbler(device)
    short.context = 40
    long.network = short.network
    engine.add_slots("toy", short, options=ModelOptions(slots=2))
    engine.add_slots("toy/long", long, options=ModelOptions(slots=1))
    engine.open()
    with pytest.raises(InputError):
        ask(engine, endless(1, length=30), 20)
    request = engine.generate("toy/long", endless(1, length=30), positions=30, max_steps=20)
    assert len(request.result(LIMIT_S).value) == 20


# -- waiting and cancelling -----------------------------------------------------------------------------


def test_progress_flows_at_a_bounded_rate(engine: CardEngine, toy: Shaky, tmp_path: Path) -> None:
    toy.before_step = lambda bucket, rows: time.sleep(0.01)
    run = FakeRun(tmp_path / "run")
    result = ask(engine, endless(1), 100).wait(run)
    assert result.steps == 100
    assert 2 <= len(run.progress) <= 20
    assert run.progress == sorted(run.progress)
    assert 0 < run.progress[0] < run.progress[-1] <= 1
    assert 0 < run.made[0]["tokens"] < run.made[-1]["tokens"] <= 100


def test_a_cancelled_request_leaves_its_slot_at_the_next_step(
    engine: CardEngine, toy: Shaky, tmp_path: Path, expected: Callable[..., list[int]]
) -> None:
    toy.before_step = lambda bucket, rows: time.sleep(0.01)
    released: list[tuple[int, int]] = []
    toy.before_release = lambda row, steps: released.append((row.prompt.seed, steps))
    other = ask(engine, endless(7), 60)
    with pytest.raises(Cancelled):
        ask(engine, endless(8), 150).wait(FakeRun(tmp_path / "run", cancel_at=2))
    assert value(other) == expected(endless(7), 60)
    assert released == [(8, 0), (7, 60)]


def test_a_request_that_is_cancelled_while_it_waits_never_gets_a_slot(engine: CardEngine, toy: Shaky) -> None:
    seen: set[int] = set()
    toy.before_prefill = lambda rows, budget: seen.update(row.prompt.seed for row in rows)
    running = [ask(engine, endless(seed), 40) for seed in range(4)]
    waiting = ask(engine, endless(99))
    waiting.cancel()
    for request in running:
        value(request)
    value(ask(engine, endless(5), 2))
    assert seen == {0, 1, 2, 3, 5}
    with pytest.raises(Cancelled):
        waiting.result(LIMIT_S)


def test_nothing_of_a_request_is_kept_when_it_has_ended(engine: CardEngine) -> None:
    for seed in range(3):
        value(ask(engine, endless(seed), 2))
    ask(engine, endless(4), 150).cancel()
    for other in [ask(engine, endless(seed), 100) for seed in range(4)]:
        value(other)
    assert engine.call(lambda: len(engine._loop._requests)).result(LIMIT_S) == 0


def test_closing_hands_back_what_runs_and_what_waits(toy: Shaky, make_engine: EngineMaker) -> None:
    engine = make_engine()
    engine.add_slots("toy", toy, options=ModelOptions(slots=1))
    engine.open()
    toy.before_step = lambda bucket, rows: time.sleep(0.01)
    requests = [ask(engine, endless(seed), 150) for seed in range(3)]
    time.sleep(0.1)
    engine.close()
    for request in requests:
        with pytest.raises(ShuttingDown):
            request.result(LIMIT_S)
    with pytest.raises(TimeoutError):
        ask(engine, endless(1)).result(0.1)


# -- one request's failure -------------------------------------------------------------------------------


def test_a_bad_prompt_fails_alone_among_those_that_it_ran_with(
    engine: CardEngine, toy: Shaky, expected: Callable[..., list[int]]
) -> None:
    def refuse(rows: Sequence[Row[Prompt]], budget: int) -> None:
        if any(row.prompt.seed == 13 for row in rows):
            raise InputError("this voice cannot be used")

    toy.before_prefill = refuse
    gate = threading.Event()
    engine.call(lambda: gate.wait(LIMIT_S) and None)
    requests = {seed: ask(engine, endless(seed)) for seed in (1, 13, 2)}
    gate.set()
    with pytest.raises(InputError, match="this voice cannot be used"):
        requests[13].result(LIMIT_S)
    assert value(requests[1]) == expected(endless(1))
    assert value(requests[2]) == expected(endless(2))


def test_a_row_that_cannot_be_taken_out_fails_alone(
    engine: CardEngine, toy: Shaky, expected: Callable[..., list[int]]
) -> None:
    def refuse(row: Row[Prompt], steps: int) -> None:
        if row.prompt.seed == 13 and steps:
            raise ValueError("no such frames")

    toy.before_release = refuse
    requests = {seed: ask(engine, endless(seed)) for seed in (1, 13, 2)}
    with pytest.raises(ValueError, match="no such frames"):
        requests[13].result(LIMIT_S)
    assert value(requests[1]) == expected(endless(1))
    assert value(requests[2]) == expected(endless(2))


def test_a_step_that_fails_ends_the_rows_that_took_part_and_no_others(
    engine: CardEngine, toy: Shaky, expected: Callable[..., list[int]]
) -> None:
    def fail_once(bucket: int, rows: Sequence[Row[Prompt]]) -> None:
        if any(row.steps == 5 and row.prompt.seed == 1 for row in rows):
            raise ValueError("a table is too short")

    toy.before_step = fail_once
    with pytest.raises(ValueError, match="a table is too short"):
        ask(engine, endless(1)).result(LIMIT_S)
    assert value(ask(engine, endless(2))) == expected(endless(2))


class Fussy(Counter):
    """A decoder that refuses some items, in one of three ways."""

    def run(self, items: Sequence[Item[Any, Any]], time_budget_s: float) -> None:
        if any(len(item.payload) == 13 for item in items):
            raise ValueError("thirteen frames")
        for item in items:
            if len(item.payload) == 14:
                item.error, item.done = InputError("fourteen frames"), True
        super().run([item for item in items if not item.done], time_budget_s)


def test_an_item_that_cannot_be_decoded_fails_alone(
    toy: Shaky, make_engine: EngineMaker, expected: Callable[..., list[int]]
) -> None:
    engine = make_engine()
    engine.add_slots("toy", toy, options=ModelOptions(slots=4), decoder=Fussy())
    engine.open()
    requests = {steps: ask(engine, endless(steps), steps) for steps in (12, 13, 14, 15)}
    with pytest.raises(ValueError, match="thirteen"):
        requests[13].result(LIMIT_S)
    with pytest.raises(InputError, match="fourteen"):
        requests[14].result(LIMIT_S)
    assert value(requests[12]) == expected(endless(12), 12)
    assert value(requests[15]) == expected(endless(15), 15)


# -- memory -----------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_much_at_once_is_run_in_smaller_parts(
    engine: CardEngine, toy: Shaky, expected: Callable[..., list[int]]
) -> None:
    budgets: list[int] = []

    def short_of_memory(rows: Sequence[Row[Prompt]], budget: int) -> None:
        budgets.append(budget)
        if budget > 64:
            raise out_of_memory()

    toy.before_prefill = short_of_memory
    assert value(ask(engine, endless(1, length=100))) == expected(endless(1, length=100))
    assert budgets[:6] == [1024, 512, 256, 128, 64, 128]


def test_a_prompt_for_which_there_is_no_memory_fails_alone(
    engine: CardEngine, toy: Shaky, expected: Callable[..., list[int]]
) -> None:
    def short_of_memory(rows: Sequence[Row[Prompt]], budget: int) -> None:
        if any(row.prompt.seed == 13 for row in rows):
            raise out_of_memory()

    toy.before_prefill = short_of_memory
    requests = {seed: ask(engine, endless(seed)) for seed in (1, 13, 2)}
    with pytest.raises(OutOfMemory, match="no memory for this prompt"):
        requests[13].result(LIMIT_S)
    assert value(requests[1]) == expected(endless(1))
    assert value(requests[2]) == expected(endless(2))


def test_a_step_without_memory_goes_on_with_fewer_slots_and_the_same_frames(
    engine: CardEngine, toy: Shaky, expected: Callable[..., list[int]]
) -> None:
    def short_of_memory(bucket: int, rows: Sequence[Row[Prompt]]) -> None:
        if bucket > 2 and any(row.steps >= 6 for row in rows):
            raise out_of_memory()

    toy.before_step = short_of_memory
    requests = [ask(engine, endless(seed), 30) for seed in range(5)]
    for seed, request in enumerate(requests):
        assert value(request) == expected(endless(seed), 30)
    assert engine.slots("toy") == 2
    assert [request.restarts for request in requests[:2]] == [0, 0]  # type: ignore[attr-defined]
    assert sum(request.restarts for request in requests) == 2  # type: ignore[attr-defined]


def test_even_without_room_for_the_survivors_nothing_is_lost(
    engine: CardEngine, toy: Shaky, expected: Callable[..., list[int]]
) -> None:
    refused: list[int] = []

    def short_of_memory(bucket: int, rows: Sequence[Row[Prompt]]) -> None:
        if bucket > 1 and any(row.steps >= 6 for row in rows):
            raise out_of_memory()

    def no_room(slots: int) -> None:
        if slots == 2:
            refused.append(slots)
            raise out_of_memory()

    toy.before_step, toy.before_reserve = short_of_memory, no_room
    requests = [ask(engine, endless(seed), 30) for seed in range(4)]
    for seed, request in enumerate(requests):
        assert value(request) == expected(endless(seed), 30)
    assert (refused, engine.slots("toy")) == ([2], 1)


def test_a_step_for_which_there_is_no_memory_at_all_fails_its_row(engine: CardEngine, toy: Shaky) -> None:
    def short_of_memory(bucket: int, rows: Sequence[Row[Prompt]]) -> None:
        if any(row.prompt.seed == 13 for row in rows):
            raise out_of_memory()

    toy.before_step = short_of_memory
    with pytest.raises(OutOfMemory, match=r"out of memory|no memory"):
        ask(engine, endless(13)).result(LIMIT_S)
    toy.before_step = lambda bucket, rows: None
    assert len(value(ask(engine, endless(1)))) == 20


def test_slots_that_do_not_fit_are_fewer_slots(toy: Shaky, make_engine: EngineMaker) -> None:
    def no_room(slots: int) -> None:
        if slots > 10:
            raise out_of_memory()

    toy.before_reserve = no_room
    engine = make_engine()
    engine.add_slots("toy", toy, options=ModelOptions(slots=24))
    engine.open()
    assert engine.slots("toy") == 9  # of 24, 18, 13


class Cramped(Counter):
    """A decoder with memory for one item at a time, and for a large one only in small bites."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, float]] = []

    def run(self, items: Sequence[Item[Any, Any]], time_budget_s: float) -> None:
        self.calls.append((len(items), time_budget_s))
        if len(items) > 1 or (len(items[0].payload) == 20 and time_budget_s > 0.01):
            raise out_of_memory()
        if len(items[0].payload) == 30:
            raise out_of_memory()
        super().run(items, time_budget_s)


def test_a_decoder_without_memory_does_less_at_once(
    toy: Shaky, make_engine: EngineMaker, expected: Callable[..., list[int]]
) -> None:
    engine = make_engine()
    decoder = Cramped()
    engine.add_slots("toy", toy, options=ModelOptions(slots=4), decoder=decoder)
    engine.open()
    gate = threading.Event()
    engine.call(lambda: gate.wait(LIMIT_S) and None)
    requests = {steps: ask(engine, endless(steps), steps) for steps in (18, 19, 20)}
    gate.set()
    for steps, request in requests.items():
        assert value(request) == expected(endless(steps), steps)
    with pytest.raises(OutOfMemory, match="no memory for this request"):
        ask(engine, endless(1), 30).result(LIMIT_S)
    assert min(budget for _, budget in decoder.calls) < 0.01


# -- the card ------------------------------------------------------------------------------------------------


def fatal() -> Exception:
    return RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("where", ["prefill", "step", "release"])
def test_a_fatal_error_fails_every_request_so_that_the_process_ends(
    toy: Shaky, make_engine: EngineMaker, where: str
) -> None:
    engine = make_engine()
    engine.add_slots("toy", toy, options=ModelOptions(slots=2), decoder=Counter())
    engine.open()

    def break_card(*_: Any) -> None:
        raise fatal()

    gate = threading.Event()
    engine.call(lambda: gate.wait(LIMIT_S) and None)
    requests = [ask(engine, endless(seed), 5) for seed in range(4)]
    setattr(toy, f"before_{where}", break_card)
    gate.set()
    for request in requests:
        with pytest.raises(CardFailed, match="illegal memory access"):
            request.result(LIMIT_S)
    setattr(toy, f"before_{where}", lambda *_: None)
    with pytest.raises(CardFailed):  # nothing runs on that card any more
        ask(engine, endless(1)).result(LIMIT_S)


def test_a_bug_of_the_engine_itself_lets_nobody_wait_for_ever(toy: Shaky, make_engine: EngineMaker) -> None:
    engine = make_engine()
    engine.add_slots("toy", toy, options=ModelOptions(slots=2))
    engine.open()

    class Odd:
        def read(self) -> list[bool]:
            return []

    toy.step = lambda bucket, rows: Odd()  # type: ignore[method-assign]
    with pytest.raises(CardFailed, match="the engine stopped: IndexError"):
        ask(engine, endless(1)).result(LIMIT_S)


def test_what_is_called_on_the_thread_raises_where_it_was_asked_for(make_engine: EngineMaker) -> None:
    engine = make_engine()
    names = [engine.call(lambda: threading.current_thread().name).result(LIMIT_S) for _ in range(2)]
    assert names == ["engine-cpu:0"] * 2
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0).result(LIMIT_S)
    assert engine.call(lambda: 5).result(LIMIT_S) == 5


# -- several models -----------------------------------------------------------------------------------------------


def test_models_share_the_card_fairly(device: Device, make_engine: EngineMaker) -> None:
    engine = make_engine()
    slow, quick = Shaky(device), Shaky(device)
    slow.before_step = lambda bucket, rows: time.sleep(0.02)
    quick.before_step = lambda bucket, rows: time.sleep(0.004)
    engine.add_slots("slow", slow, options=ModelOptions(slots=2))
    engine.add_slots("quick", quick, options=ModelOptions(slots=2))
    engine.open()
    counts = {"slow": 0, "quick": 0}

    def count(name: str, model: Shaky, nap_s: float) -> None:
        def before(bucket: int, rows: Sequence[Row[Prompt]]) -> None:
            counts[name] += 1
            time.sleep(nap_s)

        model.before_step = before

    count("slow", slow, 0.02)
    count("quick", quick, 0.004)
    long = [engine.generate(name, endless(1), positions=3, max_steps=150) for name in counts]
    time.sleep(1.0)
    for request in long:
        request.cancel()
    assert counts["slow"] >= 8, "a model starves"
    assert 2 < counts["quick"] / counts["slow"] < 8, counts


def test_a_batch_model_takes_its_turn_beside_rows(
    engine: CardEngine, make_engine: EngineMaker, toy: Shaky
) -> None:
    both = make_engine()
    model = Shaky(toy.device)
    both.add_slots("toy", model, options=ModelOptions(slots=2))
    both.add_batch("count", Counter(at_once=1))
    both.open()
    row = ask(both, endless(1), 100)
    item = both.process("count", torch.arange(30))
    assert item.result(LIMIT_S) == list(range(30))
    assert {"process_s", "items_together"} <= dict(item.metrics).keys()
    assert len(row.result(LIMIT_S).value) == 100


# -- the watchdog ------------------------------------------------------------------------------------------------


class Watching:
    """A watch that notes what it is told, and who overstays."""

    def __init__(self) -> None:
        self.limits: set[float] = set()
        self.overdue: list[float] = []

    @contextmanager
    def watching(self, who: object, limit_s: float) -> Iterator[None]:
        begun = time.monotonic()
        self.limits.add(limit_s)
        yield
        if time.monotonic() > begun + limit_s:
            self.overdue.append(limit_s)


def test_each_phase_is_watched_with_its_own_limit(toy: Shaky, make_engine: EngineMaker) -> None:
    watch = Watching()
    limits = Limits(load=61.0, warm_up=62.0, prefill=63.0, step=0.05, decode=65.0)
    engine = make_engine(watch=watch, limits=limits)
    engine.call(lambda: None).result(LIMIT_S)
    engine.add_slots("toy", toy, options=ModelOptions(slots=2), decoder=Counter())
    engine.open()
    assert watch.limits == {61.0, 62.0}
    slept: list[int] = []

    def sleep_once(bucket: int, rows: Sequence[Row[Prompt]]) -> None:
        if not slept:
            slept.append(1)
            time.sleep(0.1)

    toy.before_step = sleep_once
    value(ask(engine, endless(1), 3))
    assert watch.limits == {61.0, 62.0, 63.0, 0.05, 65.0}
    assert 0.05 in watch.overdue


def test_the_same_seed_gives_the_same_frames_after_a_restart(
    device: Device, make_engine: EngineMaker
) -> None:
    made = []
    for _ in range(2):
        engine = make_engine()
        engine.add_slots("toy", Babbler(device), options=ModelOptions(slots=2), decoder=Counter())
        engine.open()
        made.append([value(request) for request in [ask(engine, endless(seed)) for seed in range(5)]])
        engine.close()
    assert made[0] == made[1]
    assert made[0][0] != made[0][1]
    assert replace(endless(1), seed=2) == endless(2)
