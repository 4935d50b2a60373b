"""Putting the FAKE `npu` of `fake_npu_backend.py` into a process."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import torch

from .fake_npu_backend import FakeNpu, FakeTensor, raw_of

WRITTEN_FOR = "2.13."


def install(*, cards: int, limit: int) -> FakeNpu:
    """Turn this process into one with fake cards; there is no way back."""
    if not torch.__version__.startswith(WRITTEN_FOR):
        raise RuntimeError(
            f"the fake npu is written for torch {WRITTEN_FOR}x, and this is {torch.__version__}"
        )
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    fake = FakeNpu(cards, limit)
    FakeNpu._installed = fake
    _setup_privateuseone_for_python_backend("npu", backend_module=fake)
    _register_factories(fake)
    _replace(fake)
    return fake


def _register_factories(fake: FakeNpu) -> None:
    """Give a kernel to what makes a tensor out of none."""
    library = torch.library.Library("aten", "IMPL")
    fake.library = library  # type: ignore[attr-defined]  # with it the kernels would go

    def make(operation: Any) -> Any:
        def kernel(*args: Any, **kwargs: Any) -> FakeTensor:
            fake.operate("factory")
            card = fake.index(kwargs.get("device") or torch.device("npu"))
            kwargs |= {"device": torch.device("cpu"), "pin_memory": None}
            return FakeTensor(operation(*args, **kwargs), card)

        return kernel

    aten = torch.ops.aten
    for name, operation in (
        ("empty.memory_format", aten.empty.memory_format),
        ("empty_strided", aten.empty_strided.default),
        ("arange", aten.arange.default),
        ("arange.start", aten.arange.start),
        ("arange.start_step", aten.arange.start_step),
        ("eye", aten.eye.default),
        ("eye.m", aten.eye.m),
        ("linspace", aten.linspace.default),
        ("scalar_tensor", aten.scalar_tensor.default),
    ):
        library.impl(name, make(operation), "PrivateUse1")

    def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        raw_of(target).copy_(raw_of(source))
        return target

    library.impl("_copy_from", copy_from, "PrivateUse1")


def _replace(fake: FakeNpu) -> None:
    """Put the fake where the program looks for torch_npu, and mend what torch asks its C++ side for."""
    package = types.ModuleType("torch_npu", "A FAKE of torch_npu for tests.")
    package.__spec__ = importlib.machinery.ModuleSpec("torch_npu", loader=None)
    # transformers imports the last name.
    vars(package).update(__version__="0.fake", npu=fake, npu_fusion_attention=_absent)
    sys.modules["torch_npu"] = package

    from soundmill.models.device import Device

    patched: Any = Device
    patched.generator = lambda self, seed: torch.Generator().manual_seed(seed)
    tensor: Any = torch.Tensor
    tensor.pin_memory = lambda self, *_: self.clone()
    accelerator: Any = torch.accelerator
    accelerator.set_device_index = accelerator.set_device_idx = fake.set_device
    accelerator.current_device_index = accelerator.current_device_idx = fake.current_device
    accelerator.synchronize = fake.synchronize
    accelerator.get_memory_info = fake.mem_get_info
    accelerator.memory_stats = fake.memory_stats
    accelerator.empty_cache = fake.empty_cache


def _absent(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("the fake npu has no kernels of Ascend's own")
