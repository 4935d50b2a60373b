"""A captured step and an eager one are the same; `tape.py` is the graph where there is no card."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from soundmill.models.device import Device, GraphPool, StepGraph, open_device
from soundmill.models.device.graph import WARM_CALLS

from .vendor import FakeVendor, install

torch = pytest.importorskip("torch")


class Walk:
    """A step with a state: it goes on by what it is told and looks back at a history."""

    def __init__(self, device: Device) -> None:
        self.place = torch.zeros(2, device=device.torch_device)
        self.history = torch.zeros(16, 2, device=device.torch_device)
        self.count = torch.zeros(1, dtype=torch.int64, device=device.torch_device)

    def step(self, stride: Any) -> tuple[Any, Any]:
        self.place += stride
        self.history.index_copy_(0, self.count, self.place[None])
        self.count += 1
        return self.history.sum(0), (self.place > 5).any()

    def walk(self, graph: StepGraph, device: Device, steps: int) -> list[tuple[list[float], bool]]:
        strides = [device.upload(torch.tensor([float(n), 1.0])) for n in range(steps)]
        taken = []
        for stride in strides:
            total, far = graph(stride)
            taken.append((total.cpu().tolist(), bool(far.cpu())))
        return taken


EXPECTED = [
    ([0.0, 1.0], False),
    ([1.0, 3.0], False),
    ([4.0, 6.0], False),
    ([10.0, 10.0], True),
    ([20.0, 15.0], True),
]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A fake card of a fake vendor, with graphs."""
    install(monkeypatch, "npu", FakeVendor())
    device = open_device("npu")
    monkeypatch.setattr(device, "upload", lambda tensor: tensor)
    return device


def test_a_processor_runs_call_by_call() -> None:
    device = open_device("cpu")
    walk = Walk(device)
    graph = StepGraph(device, walk.step)
    assert walk.walk(graph, device, 5) == EXPECTED
    assert not graph.captured
    graph.capture(torch.zeros(2))
    assert not graph.captured
    graph.reset()


@pytest.mark.parametrize("enabled", [False, True])
def test_every_call_is_one_step_whether_it_warms_up_captures_or_replays(card: Device, enabled: bool) -> None:
    walk = Walk(card)
    graph = StepGraph(card, walk.step, enabled=enabled)
    assert walk.walk(graph, card, 5) == EXPECTED
    assert graph.captured is enabled


def test_a_capture_ahead_of_time_runs_the_step_and_the_next_call_replays(card: Device) -> None:
    walk = Walk(card)
    graph = StepGraph(card, walk.step)
    graph.capture(torch.zeros(2))
    assert graph.captured
    assert int(walk.count) == WARM_CALLS + 1
    for state in (walk.place, walk.history, walk.count):
        state.zero_()
    assert walk.walk(graph, card, 5) == EXPECTED


def test_a_graph_that_was_reset_is_captured_again_with_the_tensors_of_that_time(card: Device) -> None:
    walk = Walk(card)
    graph = StepGraph(card, walk.step)
    walk.walk(graph, card, 4)
    graph.reset()
    assert not graph.captured
    walk.__init__(card)  # type: ignore[misc]
    assert walk.walk(graph, card, 5) == EXPECTED
    assert graph.captured


def test_buckets_share_a_pool_which_is_made_once(card: Device) -> None:
    pool = GraphPool(card)
    for _ in range(2):
        StepGraph(card, lambda x: x + 1, pool=pool).capture(torch.zeros(2))
    assert card.api.asked.count("graph_pool_handle") == 1
    assert card.api.asked.count("graph pool=(0, 7) thread_local") == 2


def test_a_step_that_cannot_be_captured_runs_call_by_call_and_says_so(
    card: Device, caplog: pytest.LogCaptureFixture
) -> None:
    graph = StepGraph(card, lambda x: x * x.sum().item())
    with caplog.at_level(logging.WARNING):
        assert [graph(torch.full((1,), 2.0)).item() for _ in range(5)] == [4, 4, 4, 4, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "a step cannot be captured and runs call by call"
    ]
    assert "the host reads a tensor" in caplog.records[0].__dict__["reason"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("NPU out of memory. Tried to allocate 2.00 MiB (NPU 0; "),
        RuntimeError("NPU function error: aclmdlRICaptureEnd, error code is 107025"),
    ],
)
def test_what_the_card_says_during_a_capture_is_not_passed_over(card: Device, error: Exception) -> None:
    calls: list[int] = []

    def step(x: Any) -> Any:
        calls.append(1)
        if len(calls) > WARM_CALLS:
            raise error
        return x + 1

    graph = StepGraph(card, step)
    with pytest.raises(type(error)):
        graph.capture(torch.zeros(1))


def test_cudas_own_words_for_a_step_that_cannot_be_captured_are_understood(card: Device) -> None:
    calls: list[int] = []

    def step(x: Any) -> Any:
        calls.append(1)
        if len(calls) == WARM_CALLS + 1:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return x + 1

    graph = StepGraph(card, step)
    assert [graph(torch.zeros(1)).item() for _ in range(4)] == [1, 1, 1, 1]
    assert not graph.captured


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA card: graphs are replayed from a tape only"
)
def test_a_cuda_card_replays_what_the_processor_computes() -> None:
    device = open_device("cuda")
    assert device.health().ok
    walk = Walk(device)
    graph = StepGraph(device, walk.step, pool=GraphPool(device))
    with device.timer() as timer:
        assert walk.walk(graph, device, 5) == EXPECTED
    assert graph.captured
    assert timer.seconds() > 0
    reading = StepGraph(device, lambda x: x * x.sum().item())
    assert [reading(torch.full((1,), 2.0, device="cuda")).item() for _ in range(4)] == [4, 4, 4, 4]
    assert device.health().ok, "a capture that failed leaves the card sound"
    flags = torch.ones(3, dtype=torch.bool, device="cuda")
    read = device.flags(flags)
    flags.zero_()
    assert list(read.read()) == [True, True, True]
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert device.classify(caught.value) == "oom"
    assert device.memory().usable > 0
    assert device.peak() > 0
