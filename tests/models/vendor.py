"""A FAKE of a vendor's module of torch: it notes what is asked of it and has no tensors.

Names and signatures are those of torch.npu in torch_npu 2.13.0; `torch.cuda` has the same.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from soundmill.models.device.card import defaults

from . import tape

MIB = 1024 * 1024


class FakeVendor:
    """What is there of a kind of card.

    Attributes:
        asked: The calls that change something, in order.
    """

    NPUGraph = CUDAGraph = tape.TapeGraph

    class Stream:
        def wait_stream(self, other: Any) -> None:
            pass

    def __init__(
        self, cards: int = 1, *, bf16: bool = True, free: int = 0, allocated: int = 0, reserved: int = 0
    ):
        self.asked: list[str] = []
        self.conv = types.SimpleNamespace(allow_hf32=True)
        self.matmul = types.SimpleNamespace(allow_hf32=False)
        self._cards, self._bf16 = cards, bf16
        self._free, self._allocated, self._reserved = free, allocated, reserved

    def is_available(self) -> bool:
        return self._cards > 0

    def device_count(self) -> int:
        return self._cards

    def set_device(self, device: int) -> None:
        self.asked.append(f"set_device {device}")

    def get_device_name(self, device_name: Any = None) -> str:
        return "Ascend910B3"

    def set_compile_mode(self, jit_compile: bool = False) -> None:
        self.asked.append(f"set_compile_mode {jit_compile}")

    def is_bf16_supported(self, including_emulation: bool = False) -> bool:
        return self._bf16 or including_emulation

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return self._free, 256 * MIB

    def memory_allocated(self, device: Any = None) -> int:
        return self._allocated

    def memory_reserved(self, device: Any = None) -> int:
        return self._reserved

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        return {"num_ooms": 2, "allocated_bytes.all.current": self._allocated}

    def synchronize(self, device: Any = None) -> None:
        self.asked.append(f"synchronize {device}")

    def current_stream(self, device: Any = None) -> Any:
        return self.Stream()

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        yield

    def graph_pool_handle(self) -> tuple[int, int]:
        self.asked.append("graph_pool_handle")
        return (0, 7)

    @contextmanager
    def graph(
        self, graph: tape.TapeGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        self.asked.append(f"graph pool={pool} {capture_error_mode}")
        with graph.recording():
            yield


def install(monkeypatch: pytest.MonkeyPatch, kind: str, vendor: FakeVendor) -> FakeVendor:
    """Let this process have the cards of a fake vendor, until the test ends.

    `Device.torch_device` is the processor, since torch knows no device of that name.
    """
    import torch

    from soundmill.models.device import opening

    for name, value in defaults(kind, os.environ).items():  # else opening it would leave them behind
        monkeypatch.setenv(name, value)
    if kind == "npu":
        package = types.ModuleType("torch_npu")
        package.__spec__ = importlib.machinery.ModuleSpec("torch_npu", loader=None)
        monkeypatch.setitem(sys.modules, "torch_npu", package)
    monkeypatch.setattr(torch, kind, vendor, raising=False)
    monkeypatch.setattr(opening, "_torch_device", lambda torch, *_: torch.device("cpu"))
    return vendor
