"""A FAKE `npu`: host memory that behaves like Ascend cards as far as our device handling goes.

It proves that a program puts every tensor on the right card, binds its threads, recovers from an
out-of-memory, and keeps to the rules of a captured graph. It proves nothing about Ascend: every
kernel is the processor's. It is written against private functions of torch 2.13.

A test runs in a process of its own, because the fake renames a part of torch for good:

    from .fake_npu import in_fake_npu

    @in_fake_npu(cards=2, memory_mib=256)
    def test_my_model_gives_the_same_on_both_fake_cards() -> None:
        from .fake_npu import same_as_cpu
        same_as_cpu(run_my_model)          # run_my_model(device: Device) -> tensors, nested as you like

`run_my_model` loads, computes and returns; it is called with the processor, then with each fake card,
and what it returns is compared. A first process imports torch and transformers, which takes some 6 s
once; each test is a fork of it. A test may take fixtures and parameters whose values can be pickled,
such as `tmp_path`.

Inside, `soundmill.models.device.open_device("npu:1")` opens a fake card, and `npu()` is the fake itself:

- `npu().limit(1, bytes)` sets the memory of a card; `npu().refuse(1)` lets the next allocation fail once
  with the text of a real allocator; `npu().allocated(1)` counts.
- `npu().break_card(text)` raises `text` at the next operation and drops every one after it silently, as
  torch_npu does.
- A thread that never called `Device.bind_thread` gets error 107002; tensors of two cards, or of a card
  and the host, do not mix.
- Graphs are real enough to find mistakes: a captured step does not run, and what the host computed
  during the capture is frozen (see `tape.py`).

Known gaps: no random generators of its own (`Device.generator` gives the host's), no autocast, LSTM or
GRU, no
`torch.load(map_location="npu")`. bf16 attention rounds differently from the processor's own.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import importlib
import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from soundmill.models.device import Device

    from .fake_npu_backend import FakeNpu

P = ParamSpec("P")

ROOT = Path(__file__).resolve().parent.parent.parent
CHILD = "SOUNDMILL_TESTS_FAKE_NPU"
MIB = 1024 * 1024
LIMIT_S = 90


def in_fake_npu(*, cards: int = 2, memory_mib: int = 256) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Run a test function, which stands at the top of its module, in a process with fake cards."""

    def wrap(test: Callable[P, None]) -> Callable[P, None]:
        if CHILD in os.environ:
            return test

        @functools.wraps(test)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            given = inspect.signature(test).bind(*args, **kwargs).arguments
            nursery = Nursery.running()
            nursery.run(f"{test.__module__}:{test.__name__}", dict(given), cards, memory_mib)

        return run

    return wrap


class Nursery:
    """A process that has imported torch and installed the fake, and forks one more for each test."""

    _one: Nursery | None = None

    def __init__(self) -> None:
        environment = dict(os.environ) | {
            CHILD: "1",
            "OMP_NUM_THREADS": "1",
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        atexit.register(self.close)

    @classmethod
    def running(cls) -> Nursery:
        if cls._one is None or cls._one._process.poll() is not None:
            cls._one = cls()
        return cls._one

    def run(self, target: str, arguments: Mapping[str, Any], cards: int, memory_mib: int) -> None:
        """Run a function; fail with what its process had to say."""
        with tempfile.TemporaryDirectory() as folder:
            given, words = Path(folder, "arguments"), Path(folder, "words")
            given.write_bytes(pickle.dumps(arguments))
            order = {
                "target": target,
                "given": str(given),
                "words": str(words),
                "cards": cards,
                "mib": memory_mib,
            }
            try:
                answer = self._ask(json.dumps(order))
            except BaseException:  # such as the test's time limit: the next one must not read this answer
                self.close()
                raise
            said = words.read_text(errors="replace") if words.exists() else "nothing"
        assert answer == "0", f"the process with fake cards ended with {answer or 'its nursery'}:\n{said}"

    def _ask(self, order: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def npu() -> FakeNpu:
    """The fake of this process."""
    from .fake_npu_backend import FakeNpu

    return FakeNpu.installed()


def same_as_cpu(
    function: Callable[[Device], Any],
    *,
    cards: Sequence[int] = (0, 1),
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """Call `function` with the processor and with each fake card, and compare what it returns.

    Tensors may be anywhere when they are returned, except that those on a card must be on the card
    that was given. Everything that is no tensor has to be equal.
    """
    from soundmill.models.device import open_device

    expected = function(open_device("cpu"))
    for card in cards:
        device = open_device(f"npu:{card}")
        _compare(function(device), expected, device, "result", rtol, atol)


def _compare(found: Any, expected: Any, device: Device, name: str, rtol: float, atol: float) -> None:
    import torch

    if isinstance(expected, torch.Tensor):
        if found.device.type != "cpu":
            assert found.device == device.torch_device, f"{name} is on {found.device} instead of {device}"
        torch.testing.assert_close(
            found.cpu(), expected.cpu(), rtol=rtol, atol=atol, msg=lambda m: f"{name}: {m}"
        )
    elif isinstance(expected, Mapping):
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            _compare(found[key], value, device, f"{name}[{key!r}]", rtol, atol)
    elif isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
        assert len(found) == len(expected), name
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            _compare(one, other, device, f"{name}[{place}]", rtol, atol)
    else:
        assert found == expected, name


def _serve() -> None:
    """The nursery's own process: fork for each order, and answer with the status."""
    # This file is `__main__` here, and a second time a module, which the tests import.
    installation = importlib.import_module("tests.models.fake_npu_installation")
    fake = installation.install(cards=2, limit=256 * MIB)
    import torch
    import transformers.modeling_utils  # noqa: F401 - what most of the tests wait for

    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            fake.configure(cards=order["cards"], limit=order["mib"] * MIB)
            _perform(order)
        until = time.monotonic() + LIMIT_S
        status = None
        while status is None:
            ended, raw = os.waitpid(child, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(raw)
            elif time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
            else:
                time.sleep(0.01)
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


def _perform(order: dict[str, Any]) -> None:
    """The process of one test."""
    words = os.open(order["words"], os.O_WRONLY | os.O_CREAT)
    os.dup2(words, 1)
    os.dup2(words, 2)
    faulthandler.dump_traceback_later(LIMIT_S - 10, exit=True)
    module, _, name = order["target"].partition(":")
    status = 0
    try:
        getattr(importlib.import_module(module), name)(**pickle.loads(Path(order["given"]).read_bytes()))
    except BaseException:  # noqa: BLE001 - the parent tells it
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of engines may still run


if __name__ == "__main__":
    _serve()
