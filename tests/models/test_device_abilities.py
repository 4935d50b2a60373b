"""What an opened device can do: memory, numbers, options, health, reads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from soundmill.models.device import Device, Memory, open_device
from soundmill.models.device import memory as memory_module
from soundmill.models.device.examination import EXIT_SUSPECT, main
from soundmill.models.engine.ports import Stops
from soundmill.models.errors import ModelUnavailable

from .vendor import MIB, FakeVendor, install

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def processor() -> Device:
    return open_device("cpu", threads=1)


# As a 256 MiB card shows it: driver free, allocated, reserved, and what can be used.
@pytest.mark.parametrize(
    ("free", "allocated", "reserved", "usable"),
    [(256, 0, 0, 256), (154, 100, 102, 156), (72, 180, 184, 76), (72, 80, 184, 176)],
)
def test_usable_is_what_the_driver_and_the_cache_can_give(
    free: int, allocated: int, reserved: int, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        monkeypatch, "npu", FakeVendor(free=free * MIB, allocated=allocated * MIB, reserved=reserved * MIB)
    )
    memory = open_device("npu").memory()
    assert memory.usable == usable * MIB
    assert memory.total == 256 * MIB


def test_the_refusals_of_an_allocator_are_counted(monkeypatch: pytest.MonkeyPatch, processor: Device) -> None:
    install(monkeypatch, "npu", FakeVendor())
    assert open_device("npu").refusals() == 2
    assert processor.refusals() == 0


def test_a_processor_has_the_memory_of_its_host(processor: Device) -> None:
    memory = processor.memory()
    assert 0 < memory.usable == memory.free <= memory.total
    assert 0 < memory.allocated < memory.total
    processor.reset_peak()
    before = processor.peak()
    large = torch.ones(64 * MIB, dtype=torch.uint8)
    assert processor.peak() >= before + 48 * MIB
    del large
    processor.empty_cache()


def test_a_container_has_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_CGROUP", tmp_path)
    _, host = memory_module.host_memory()
    for name, text in {"memory.max": 100 * MIB, "memory.current": 90 * MIB, "memory.stat": ""}.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert memory_module.host_memory() == (10 * MIB, 100 * MIB)
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {30 * MIB}\n")
    assert memory_module.host_memory() == (40 * MIB, 100 * MIB)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_module.host_memory()[1] == host


def test_used_memory_is_not_mistaken_for_free_memory() -> None:
    empty = Memory(free=100, total=100, reserved=0, allocated=0)
    full = Memory(free=0, total=100, reserved=100, allocated=100)
    assert (empty.usable, full.usable) == (100, 0)


def test_auto_is_bf16_on_a_card_that_has_it_and_fp32_elsewhere(
    monkeypatch: pytest.MonkeyPatch, processor: Device
) -> None:
    assert processor.dtype("auto") is torch.float32
    assert processor.dtype("bf16") is torch.bfloat16
    install(monkeypatch, "npu", FakeVendor(bf16=True))
    assert open_device("npu").dtype("auto") is torch.bfloat16
    install(monkeypatch, "npu", FakeVendor(bf16=False))
    older = open_device("npu")
    assert older.dtype("auto") is torch.float32
    with pytest.raises(
        ModelUnavailable, match=r"npu:0 \(Ascend910B3\) does not compute in bf16; choose auto or fp32"
    ):
        older.dtype("bf16")


def test_fp16_is_for_models_that_were_validated_in_it(processor: Device) -> None:
    assert processor.dtype("fp16", validated_fp16=True) is torch.float16
    with pytest.raises(ModelUnavailable, match="not validated in fp16; choose auto, bf16 or fp32"):
        processor.dtype("fp16")
    with pytest.raises(ModelUnavailable, match="'int8' is no dtype; choose auto, fp32, fp16 or bf16"):
        processor.dtype("int8")


def test_graphs_are_where_the_card_can_and_nobody_forbids_them(
    monkeypatch: pytest.MonkeyPatch, processor: Device
) -> None:
    assert not processor.graphs("auto")
    with pytest.raises(
        ModelUnavailable, match="cpu:0 cannot capture steps as graphs here; choose auto or off"
    ):
        processor.graphs("on")
    with pytest.raises(ModelUnavailable, match="write auto, on or off"):
        processor.graphs("maybe")
    install(monkeypatch, "npu", FakeVendor())
    assert open_device("npu").graphs("auto")
    assert not open_device("npu").graphs("off")
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "2")
    assert not open_device("npu").graphs("auto")


def test_an_npu_promises_neither_float64_nor_complex_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "npu", FakeVendor())
    caps = open_device("npu").caps
    assert (caps.float64, caps.complex, caps.fft, caps.sdpa, caps.compile) == (
        False, False, "unverified", "bool-mask", False,
    )  # fmt: skip


def test_flash_attention_2_is_refused_with_a_sentence(processor: Device) -> None:
    assert processor.attention() == "sdpa"
    assert processor.attention("eager") == "eager"
    with pytest.raises(
        ModelUnavailable, match="flash_attention_2 is a package for CUDA cards only; use sdpa"
    ):
        processor.attention("flash_attention_2")
    with pytest.raises(ModelUnavailable, match="'magic' is not offered; use sdpa"):
        processor.attention("magic")


def test_convolutions_are_exact_inside_of_the_block_only(
    monkeypatch: pytest.MonkeyPatch, processor: Device
) -> None:
    vendor = install(monkeypatch, "npu", FakeVendor())
    device = open_device("npu")
    seen = []

    def fail() -> None:
        with device.exact_convolutions():
            seen.append((vendor.conv.allow_hf32, vendor.matmul.allow_hf32))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [(False, False)]
    assert vendor.conv.allow_hf32
    assert not vendor.matmul.allow_hf32
    install(monkeypatch, "cuda", FakeVendor(1))
    device = open_device("cuda")
    assert torch.backends.cudnn.allow_tf32
    with device.exact_convolutions():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    with processor.exact_convolutions():
        pass


def test_random_numbers_of_a_seed_are_the_same_again(processor: Device) -> None:
    one, other = (torch.rand(4, generator=processor.generator(7)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.rand(4, generator=processor.generator(8)))


def test_a_read_brings_what_was_there_when_it_began(processor: Device) -> None:
    value = torch.tensor([1.0, 2.0])
    read = processor.read(value)
    value.zero_()
    assert read.ready()
    assert read.wait().tolist() == [1, 2]


def test_the_flags_of_a_step_are_the_engines_stops(processor: Device) -> None:
    flags = torch.tensor([0, 1, 0], dtype=torch.int32)
    stops: Stops = processor.flags(flags)
    flags.fill_(1)
    assert list(stops.read()) == [False, True, False]


def test_what_is_uploaded_is_a_copy(processor: Device) -> None:
    host = torch.tensor([1.0, 2.0])
    device, kept = processor.upload(host), torch.zeros(2)
    assert processor.upload(host, into=kept) is kept
    host.zero_()
    assert device.tolist() == kept.tolist() == [1, 2]


def test_time_is_measured_around_the_block(processor: Device) -> None:
    timer = processor.timer()
    with pytest.raises(RuntimeError, match="has not ended"):
        timer.seconds()
    assert not timer.ready()
    with timer:
        time.sleep(0.02)
    assert timer.ready()
    assert 0.02 <= timer.seconds() < 1


def test_a_card_is_well_if_it_gives_the_known_answer(processor: Device) -> None:
    assert processor.health().ok
    assert main(["--card", "cpu:0"]) == 0


def test_a_card_that_drops_its_kernels_is_not_well(
    processor: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: torch.zeros(a.shape[0], b.shape[1]))
    health = processor.health()
    assert not health.ok
    assert health.detail == "cpu:0 gave a wrong answer to a matrix product"
    assert main(["--card", "cpu:0"]) == EXIT_SUSPECT


def test_a_card_that_raises_or_is_missing_is_not_well(
    processor: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("error code is 507010")

    monkeypatch.setattr(torch.Tensor, "__matmul__", fail)
    assert processor.health().detail == "cpu:0 raised RuntimeError: error code is 507010"
    assert main(["--card", "npu:7"]) == EXIT_SUSPECT


def test_a_processor_computes_with_the_threads_it_was_given() -> None:
    before = torch.get_num_threads()
    try:
        open_device("cpu", threads=2).bind_thread()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_fewer_threads_compute_in_a_block_and_never_more() -> None:
    before = torch.get_num_threads()
    processor = open_device("cpu", threads=2)
    try:
        for most, expected in ((1, 1), (2, 2), (3, 2), (None, 2)):
            with processor.at_most(most):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), processor.at_most(1):
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
