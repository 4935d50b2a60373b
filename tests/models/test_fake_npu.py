"""The FAKE `npu` itself: what it refuses, counts and replays."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from .fake_npu import MIB, in_fake_npu, npu, same_as_cpu


@in_fake_npu(cards=2, memory_mib=64)
def test_a_fake_card_computes_what_the_processor_does_and_refuses_what_a_card_would() -> None:
    import torch

    from soundmill.models.device import open_device

    def run(device: Any) -> Any:
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3), torch.nn.GELU(), torch.nn.Conv1d(8, 4, 3))
        model = model.to(device.torch_device).eval()
        inputs = torch.linspace(-1, 1, 2 * 4 * 32).reshape(2, 4, 32).to(device.torch_device)
        with torch.inference_mode():
            outputs = model(inputs)
            attended = torch.nn.functional.scaled_dot_product_attention(
                outputs[:, None], outputs[:, None], outputs[:, None]
            )
        return {"out": outputs, "attended": attended, "names": ["fixed"]}

    same_as_cpu(run)

    first, second = (torch.ones(3, device=f"npu:{card}") for card in (0, 1))
    with pytest.raises(
        RuntimeError, match="on the same device, but found at least two devices, npu:0 and npu:1"
    ):
        first + second
    with pytest.raises(RuntimeError, match="found at least two devices, npu:0 and cpu"):
        first + torch.ones(3)
    assert (first + torch.tensor(2.0)).cpu().tolist() == [3, 3, 3]
    assert first.to("npu:1").device == torch.device("npu:1")
    assert open_device().kind == "npu"


@in_fake_npu(cards=2, memory_mib=8)
def test_memory_is_counted_once_given_back_and_refused_with_the_allocators_text() -> None:
    import torch

    from soundmill.models.device import Fault, open_device

    device = open_device("npu:1")
    assert device.memory().usable == 8 * MIB
    large = torch.zeros(4 * MIB, dtype=torch.uint8, device="npu:1")
    view = large.view(2, -1)[1]
    assert npu().allocated(1) == device.memory().allocated == 4 * MIB
    with pytest.raises(
        torch.OutOfMemoryError, match=r"NPU out of memory\. Tried to allocate 5\.00 MiB \(NPU 1"
    ) as caught:
        torch.zeros(5 * MIB, dtype=torch.uint8, device="npu:1")
    assert device.classify(caught.value) == Fault.OOM
    assert device.refusals() == 1
    del large, caught
    assert npu().allocated(1) == 4 * MIB, "the view keeps it"
    del view
    assert npu().allocated(1) == 0
    memory = device.memory()
    assert (memory.free, memory.reserved, memory.usable) == (4 * MIB, 4 * MIB, 8 * MIB)
    device.empty_cache()
    assert device.memory().free == 8 * MIB
    assert device.peak() == 4 * MIB
    device.reset_peak()
    assert device.peak() == 0
    npu().refuse(1)
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(1, device="npu:1")
    torch.zeros(1, device="npu:1")


@in_fake_npu(cards=2)
def test_a_thread_has_no_card_until_it_is_bound() -> None:
    import torch

    from soundmill.models.device import Fault, open_device

    device = open_device("npu:1")
    seen: list[Any] = []

    def work(bind: bool) -> None:
        try:
            if bind:
                device.bind_thread()
            seen.append(torch.ones(1, device="npu").device)
        except RuntimeError as error:
            seen.append(error)

    for bind in (False, True):
        thread = threading.Thread(target=work, args=(bind,))
        thread.start()
        thread.join()
    assert device.classify(seen[0]) == Fault.FATAL
    assert "107002" in str(seen[0])
    assert seen[1] == torch.device("npu:1")


@in_fake_npu()
def test_a_broken_card_raises_once_then_drops_everything_and_only_a_kernel_shows_it() -> None:
    import torch

    from soundmill.models.device import Fault, open_device

    device = open_device("npu:0")
    assert device.health().ok
    kept = torch.ones(2, device="npu:0")
    npu().break_card("The Inner error is reported as above. The process exits for this inner error")
    with pytest.raises(RuntimeError) as caught:
        kept + 1
    assert device.classify(caught.value) == Fault.FATAL
    assert (kept + 1).cpu().tolist() == [0, 0]
    device.sync()
    assert torch.ones(2).to("npu:0").cpu().tolist() == [1, 1], "copies still work"
    health = device.health()
    assert not health.ok
    assert "wrong answer" in health.detail


@in_fake_npu()
def test_a_captured_step_is_the_same_as_an_eager_one() -> None:
    import torch

    from soundmill.models.device import StepGraph, open_device

    device = open_device("npu:1")

    def trace(enabled: bool) -> list[list[float]]:
        state = torch.zeros(3, device=device.torch_device)

        def step(amount: torch.Tensor) -> torch.Tensor:
            state.add_(amount).mul_(1.5)
            grown = torch.cat([state, state.sum()[None]])
            return grown * 2

        graph = StepGraph(device, step, enabled=enabled)
        out = [graph(torch.full((3,), float(n), device=device.torch_device)).cpu().tolist() for n in range(6)]
        assert graph.captured is enabled
        return out

    assert trace(True) == trace(False)


@in_fake_npu()
def test_what_the_host_decides_is_frozen_and_what_it_reads_cannot_be_captured() -> None:
    import torch

    from soundmill.models.device import StepGraph, open_device

    device = open_device("npu:0")
    calls: list[int] = []

    def counting(amount: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return amount * len(calls)

    graph = StepGraph(device, counting)
    one = torch.ones(1, device="npu:0")
    assert [graph(one).cpu().item() for _ in range(5)] == [1, 2, 3, 3, 3]

    reading = StepGraph(device, lambda amount: amount * float(amount.sum()))
    assert [reading(one).cpu().item() for _ in range(4)] == [1, 1, 1, 1], "it goes on call by call"
    assert not reading.captured


@in_fake_npu(memory_mib=8)
def test_views_and_inference_tensors_are_what_they_are_on_a_card() -> None:
    import torch

    ordinary = torch.ones(4, 3, device="npu:0")
    with torch.inference_mode():
        view = ordinary[:2]
        view.add_(1)
        made = ordinary * 2
        moved = torch.nn.Linear(3, 2).to("npu:0")(view)
    assert not view.is_inference()
    assert made.is_inference()
    assert moved.device == torch.device("npu:0")
    ordinary.add_(1)
    assert ordinary.cpu().tolist() == [[3, 3, 3], [3, 3, 3], [2, 2, 2], [2, 2, 2]]
    large = torch.zeros(4 * MIB, dtype=torch.uint8, device="npu:0")
    before = npu().allocated(0)
    large.set_(torch.zeros(2, dtype=torch.uint8, device="npu:0"))
    assert large.shape == (2,)
    assert npu().allocated(0) < before - 3 * MIB
