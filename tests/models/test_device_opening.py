"""Which card a process gets, and what is said where there is none."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from soundmill.models.device import Card, open_device, prepare_env
from soundmill.models.errors import ModelUnavailable

from .vendor import FakeVendor, install

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is set here stays here."""
    before = dict(os.environ)
    for name in (
        "ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "TORCH_TRANSFER_TO_NPU", "TASK_QUEUE_ENABLE",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_auto_takes_an_npu_before_cuda_before_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "npu", FakeVendor(2))
    install(monkeypatch, "cuda", FakeVendor(1))
    assert str(open_device()) == "npu:0"
    install(monkeypatch, "npu", FakeVendor(0))
    assert str(open_device()) == "cuda:0"
    install(monkeypatch, "cuda", FakeVendor(0))
    assert str(open_device()) == "cpu:0"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cuda", "there is no cuda card here; check its driver"),
        ("cuda:3", "there is no cuda card here"),
        ("npu", "there is no torch_npu here; pip install 'soundmill\\[npu\\]'"),
        ("gpu", "'gpu' names no card; write npu:0, cuda:1 or cpu:0, or auto"),
    ],
)
def test_a_kind_that_was_asked_for_and_is_missing_is_an_error(
    kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "cuda", FakeVendor(0))
    with pytest.raises(ModelUnavailable, match=words):
        open_device(kind)


def test_a_number_beyond_the_cards_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "npu", FakeVendor(2))
    assert open_device("npu:1").index == 1
    with pytest.raises(
        ModelUnavailable, match=r"there is no npu:2; this process sees 2 card\(s\), numbered from 0"
    ):
        open_device("npu:2")


def test_the_one_visible_card_is_the_first_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = install(monkeypatch, "npu", FakeVendor(1))
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "5")
    device = open_device("npu:5")
    assert (str(device), device.index, device.name) == ("npu:5", 0, "Ascend910B3")
    assert vendor.asked == ["set_device 0", "set_compile_mode False"]


def test_every_thread_binds_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = install(monkeypatch, "npu", FakeVendor(2))
    device = open_device("npu:1")
    vendor.asked.clear()
    thread = threading.Thread(target=device.bind_thread)
    thread.start()
    thread.join()
    assert vendor.asked == ["set_device 1"]


def failing_import(monkeypatch: pytest.MonkeyPatch, module: str, error: Exception) -> None:
    real: Callable[..., Any] = builtins.__import__

    def load(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == module:
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", load)


@pytest.mark.parametrize("kind", ["npu", "auto"])
@pytest.mark.parametrize(
    "error",
    [
        ImportError("libhccl.so: cannot open shared object file: No such file or directory"),
        RuntimeError("Two accelerators cannot be used at the same time in PyTorch: npu and cuda"),
    ],
)
def test_a_broken_torch_npu_is_named_with_its_remedy_and_never_passed_over(
    kind: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "npu", FakeVendor(1))
    failing_import(monkeypatch, "torch_npu", error)
    with pytest.raises(ModelUnavailable, match=r"torch_npu is installed but broken: .*source the set_env.sh"):
        open_device(kind)
    assert open_device("cpu").kind == "cpu"


def test_a_process_that_nobody_prepared_has_the_defaults_when_the_library_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, "npu", FakeVendor(1))
    for name in ("PYTORCH_NPU_ALLOC_CONF", "TASK_QUEUE_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    seen: dict[str, str] = {}
    real: Callable[..., Any] = builtins.__import__

    def load(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch_npu":
            seen.update(os.environ)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", load)
    open_device("npu")
    assert (seen["TASK_QUEUE_ENABLE"], seen["PYTORCH_NPU_ALLOC_CONF"]) == ("1", "expandable_segments:True")
    assert "ASCEND_RT_VISIBLE_DEVICES" not in seen


def test_a_torch_that_is_missing_or_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing_import(patch, "torch", ImportError("No module named 'torch'"))
        with pytest.raises(
            ModelUnavailable, match=r"there is no torch here .*pip install 'soundmill\[models\]'"
        ):
            open_device("cpu")
    words = "Failed to load the backend extension: torch_npu."  # torch's own, where CANN is missing
    failing_import(monkeypatch, "torch", RuntimeError(words))
    with pytest.raises(
        ModelUnavailable, match="torch cannot be imported: Failed to load the backend extension"
    ):
        open_device("cpu")


@pytest.mark.parametrize("value", ["1", "true"])
def test_the_switch_that_renames_cuda_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_TRANSFER_TO_NPU", value)
    with pytest.raises(ModelUnavailable, match=r"TORCH_TRANSFER_TO_NPU is set, .*; unset it"):
        open_device("cpu")
    with pytest.raises(ModelUnavailable, match="unset it"):
        prepare_env(Card("cpu", 0))


def test_the_environment_comes_before_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ModelUnavailable,
        match="torch was imported before this process was bound to cuda:1; set CUDA_VISIBLE_DEVICES=1",
    ):
        prepare_env(Card("cuda", 1))
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    prepare_env(Card("cuda", 1))
    prepare_env(Card("cpu", 0))


def test_a_process_without_torch_is_bound_and_naming_a_card_imports_none() -> None:
    code = (
        "import os, sys\n"
        "from soundmill.models.device import Card, prepare_env\n"
        "prepare_env(Card.parse('npu:3'))\n"
        "assert os.environ['ASCEND_RT_VISIBLE_DEVICES'] == '3'\n"
        "assert os.environ['TASK_QUEUE_ENABLE'] == '2', 'what was set is kept'\n"
        "assert os.environ['TORCH_DEVICE_BACKEND_AUTOLOAD'] == '0'\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = dict(os.environ) | {"TASK_QUEUE_ENABLE": "2", "ASCEND_RT_VISIBLE_DEVICES": "0,1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT)
