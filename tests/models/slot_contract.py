"""What every slot model promises. A model's own test file subclasses it and gives a few hooks.

The rows are brought on by the engine's own lane, turn by turn in this thread, so that each test says
exactly who joins, leaves and moves when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from soundmill.models.device import Device, open_device
from soundmill.models.engine.ports import SlotModel
from soundmill.models.engine.request import SlotRequest
from soundmill.models.engine.slot_lane import SlotLane
from soundmill.models.engine.watch import Limits, NobodyWatches
from soundmill.models.errors import Cancelled

MOST_TURNS = 2000


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request for a row; see `Row` for the fields."""

    prompt: Any
    positions: int
    max_steps: int


class Rows:
    """A lane with a model, driven by hand."""

    def __init__(self, model: SlotModel[Any, Any], device: Device, slots: int, *, late: bool = True) -> None:
        self.lane = SlotLane(
            "model", model, device=device, decoder=None, watch=NobodyWatches(), limits=Limits(), late=late
        )
        with torch.inference_mode():
            self.lane.open(slots)

    def ask(self, case: Case) -> SlotRequest:
        request = SlotRequest(
            lambda: None, prompt=case.prompt, positions=case.positions, max_steps=case.max_steps
        )
        self.lane.waiting.append(request)
        return request

    def turn(self, count: int = 1) -> None:
        with torch.inference_mode():
            for _ in range(count):
                self.lane.turn()

    def turn_until(self, holds: Callable[[], object]) -> None:
        for _ in range(MOST_TURNS):
            if holds():
                return
            self.turn()
        raise AssertionError(f"it did not happen in {MOST_TURNS} turns")

    def finish(self) -> None:
        self.turn_until(lambda: not self.lane.busy)


class Scarce(TorchDispatchMode):
    """Counts the operations that take memory, and refuses it to one of them."""

    def __init__(self, refused: int | None = None) -> None:
        super().__init__()
        self.count = 0
        self.refused = refused

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        schema = function._schema
        if not schema.is_mutable and not any(returned.alias_info for returned in schema.returns):
            self.count += 1
            if self.count - 1 == self.refused:
                self.refused = None
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return function(*args, **(kwargs or {}))


def slot_of(request: SlotRequest) -> int:
    assert request.row is not None
    return request.row.slot


def steps_of(request: SlotRequest) -> int:
    return 0 if request.row is None else request.row.steps


class SlotContract:
    """The suite. It knows the port and nothing of what a frame is.

    Attributes:
        slots: How many slots the tests use; at least 4.
    """

    slots = 4

    # -- hooks -------------------------------------------------------------------------------------

    @pytest.fixture
    def device(self) -> Device:
        """The card."""
        return open_device("cpu", threads=1)

    @pytest.fixture
    def model(self, device: Device) -> SlotModel[Any, Any]:
        """The model as after loading: `reserve` was not called yet, or nothing of an earlier test is left."""
        raise NotImplementedError

    def cases(self) -> Sequence[Case]:
        """At least 6 requests that differ in length and seed, most of them sampled.

        Some make 8 frames and more, and none stops before its third.
        """
        raise NotImplementedError

    def stops_at_once(self) -> Case | None:
        """A request whose first step stops it; `None` if none can be made."""
        raise NotImplementedError

    def stretched(self, case: Case, max_steps: int) -> Case:
        """The same request, allowed to make `max_steps` frames, at which it does not stop by itself."""
        raise NotImplementedError

    def frames(self, released: Any) -> Any:
        """What a row made, as a list with an item for each frame."""
        raise NotImplementedError

    def same(self, left: Any, right: Any) -> bool:
        """Whether two results are the same: bit for bit, unless frames are no codes."""
        return bool(left == right)

    # -- helpers -----------------------------------------------------------------------------------

    def outcome(self, request: SlotRequest) -> Any:
        return self.frames(request.result(0).value)

    def alone(self, model: SlotModel[Any, Any], device: Device, case: Case) -> Any:
        rows = Rows(model, device, 1)
        request = rows.ask(case)
        rows.finish()
        return self.outcome(request)

    @pytest.fixture
    def expected(self, model: SlotModel[Any, Any], device: Device) -> list[Any]:
        """What each case makes alone."""
        return [self.alone(model, device, case) for case in self.cases()]

    def assert_same(self, requests: Mapping[int, SlotRequest] | Sequence[SlotRequest], expected: Any) -> None:
        pairs = requests.items() if isinstance(requests, Mapping) else enumerate(requests)
        for index, request in pairs:
            assert self.same(self.outcome(request), expected[index]), f"case {index} differs"

    # -- the promises ------------------------------------------------------------------------------

    def test_the_cases_are_worth_it(self, expected: list[Any]) -> None:
        assert len(expected) >= 6
        assert min(map(len, expected)) >= 2
        assert max(map(len, expected)) >= 8
        assert not any(self.same(expected[0], other) for other in expected[1:])

    def test_a_row_alone_equals_the_same_row_in_a_full_batch(
        self, model: SlotModel[Any, Any], device: Device, expected: list[Any]
    ) -> None:
        rows = Rows(model, device, self.slots)
        requests = [rows.ask(case) for case in self.cases()[: self.slots]]
        rows.finish()
        self.assert_same(requests, expected)

    @pytest.mark.parametrize("late", [True, False])
    def test_rows_that_join_late_and_take_the_slots_of_others_are_the_same(
        self, model: SlotModel[Any, Any], device: Device, expected: list[Any], late: bool
    ) -> None:
        rows = Rows(model, device, 3, late=late)
        requests = []
        for case in self.cases():
            requests.append(rows.ask(case))
            rows.turn(2)
        rows.finish()
        self.assert_same(requests, expected)

    def test_a_cancelled_row_leaves_the_others_as_they_are(
        self, model: SlotModel[Any, Any], device: Device, expected: list[Any]
    ) -> None:
        rows = Rows(model, device, self.slots)
        requests = [rows.ask(case) for case in self.cases()[: self.slots]]
        rows.turn_until(lambda: steps_of(requests[1]) >= 1)
        requests[1].cancel()
        newcomer = rows.ask(self.cases()[self.slots])
        rows.finish()
        with pytest.raises(Cancelled):
            requests[1].result(0)
        self.assert_same({0: requests[0], 2: requests[2], 3: requests[3], self.slots: newcomer}, expected)

    def test_a_row_that_is_cancelled_amid_its_prompt_leaves_nothing_behind(
        self, model: SlotModel[Any, Any], device: Device, expected: list[Any]
    ) -> None:
        rows = Rows(model, device, 2)
        first = rows.ask(self.cases()[0])
        rows.lane._tokens = 1
        rows.turn()
        first.cancel()
        requests = [rows.ask(case) for case in self.cases()]
        rows.finish()
        self.assert_same(requests, expected)

    def test_a_row_that_is_moved_midway_keeps_its_frames(
        self, model: SlotModel[Any, Any], device: Device, expected: list[Any]
    ) -> None:
        longest = max(range(len(expected)), key=lambda index: len(expected[index]))
        others = [index for index in range(len(expected)) if index != longest][: self.slots - 1]
        rows = Rows(model, device, self.slots)
        before = [rows.ask(self.cases()[index]) for index in others]
        last = rows.ask(self.cases()[longest])
        rows.turn_until(lambda: steps_of(last) >= 2)
        assert slot_of(last) == self.slots - 1
        for request in before:
            request.cancel()
        rows.turn()
        assert slot_of(last) == 0, "the row was not moved"
        newcomers = {index: rows.ask(self.cases()[index]) for index in others}
        rows.finish()
        self.assert_same({longest: last} | newcomers, expected)

    def test_a_prompt_in_small_parts_is_the_same_prompt(
        self, model: SlotModel[Any, Any], device: Device, expected: list[Any]
    ) -> None:
        rows = Rows(model, device, self.slots)
        requests = [rows.ask(case) for case in self.cases()]
        for _ in range(MOST_TURNS):
            rows.lane._tokens = 5
            rows.turn()
            if not rows.lane.busy:
                break
        self.assert_same(requests, expected)

    def test_rows_survive_that_slots_become_fewer(
        self, model: SlotModel[Any, Any], device: Device, expected: list[Any]
    ) -> None:
        rows = Rows(model, device, self.slots)
        requests = [rows.ask(case) for case in self.cases()[: self.slots]]
        rows.turn_until(lambda: steps_of(requests[0]) >= 2)
        with torch.inference_mode():
            rows.lane._shrink(2)
        assert rows.lane.slots == 2
        assert requests[0].restarts == requests[1].restarts == 0
        rows.finish()
        self.assert_same(requests, expected)

    @pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
    def test_a_step_that_finds_no_memory_leaves_every_row_as_it_was(
        self, model: SlotModel[Any, Any], device: Device, expected: list[Any], part: float
    ) -> None:
        step = model.step
        rows = Rows(model, device, self.slots)
        requests = [rows.ask(case) for case in self.cases()[: self.slots]]
        rows.turn_until(lambda: all(steps_of(request) >= 1 for request in requests[:2]))
        counts: list[int] = []

        def scarce(bucket: int, taking_part: Sequence[Any]) -> Any:
            """Count in the first call, refuse in the second."""
            with Scarce(refused=int(part * counts[0]) if len(counts) == 1 else None) as memory:
                stops = step(bucket, taking_part)
            counts.append(memory.count)
            return stops

        model.step = scarce  # type: ignore[method-assign, assignment]
        rows.turn_until(lambda: rows.lane.slots < self.slots)
        model.step = step  # type: ignore[method-assign]
        rows.finish()
        assert rows.lane.slots == self.slots // 2
        assert requests[0].restarts == requests[1].restarts == 0
        self.assert_same(requests, expected)

    def test_a_row_may_stop_before_its_first_frame(self, model: SlotModel[Any, Any], device: Device) -> None:
        case = self.stops_at_once()
        if case is None:
            pytest.skip("no request stops at once")
        rows = Rows(model, device, self.slots)
        neighbour, request = rows.ask(self.cases()[0]), rows.ask(case)
        rows.finish()
        assert request.result(0).stopped
        assert request.result(0).steps == 0
        assert len(self.outcome(request)) == 0
        assert self.same(self.outcome(neighbour), self.alone(model, device, self.cases()[0]))

    def test_a_row_ends_at_its_cap_with_as_many_frames(
        self, model: SlotModel[Any, Any], device: Device
    ) -> None:
        case = self.cases()[0]
        whole = self.alone(model, device, self.stretched(case, 9))
        for cap in (1, 2, 9):
            rows = Rows(model, device, 2)
            request = rows.ask(self.stretched(case, cap))
            rows.finish()
            assert not request.result(0).stopped
            assert request.result(0).steps == cap
            assert self.same(self.outcome(request), whole[:cap])

    def test_a_row_may_fill_its_slot_to_the_last_position(
        self, model: SlotModel[Any, Any], device: Device
    ) -> None:
        case = self.stretched(self.cases()[0], model.context - self.cases()[0].positions)
        rows = Rows(model, device, 2)
        request = rows.ask(case)
        neighbour = rows.ask(self.cases()[1])
        rows.finish()
        assert request.result(0).steps == case.max_steps
        begun = self.alone(model, device, self.stretched(self.cases()[0], 5))
        assert self.same(self.outcome(request)[:5], begun)
        assert self.same(self.outcome(neighbour), self.alone(model, device, self.cases()[1]))

    def test_every_free_slot_is_as_good_as_a_new_one(
        self, model: SlotModel[Any, Any], device: Device, expected: list[Any]
    ) -> None:
        rows = Rows(model, device, self.slots)
        for _ in range(2):
            requests = [rows.ask(case) for case in reversed(self.cases())]
            rows.finish()
            self.assert_same(requests[::-1], expected)
