"""A model for drills, registered by the setting `plugins`: it does nothing, slowly, or goes wrong as told.

Each performance appends a line to the file `DRILL_LOG` names, so that a test can count
executions from outside.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from soundmill.models.errors import CardFailed, InputError, OutOfMemory
from soundmill.models.handler import Output, OutputFile, Run
from soundmill.models.place import Place
from soundmill.storage.arguments import Arguments
from soundmill.storage.catalog import Model

What = Literal[
    "finish",
    "fail",
    "refuse",
    "oom",
    "card",
    "segfault",
    "kill",
    "exit",
    "hang",
    "hold_gil",
    "nan",
    "write",
    "spoil",
    "devour",
]


class DrillArguments(Arguments):
    """`steps` checkpoints, `step_s` apart, then `what`; `once` goes wrong in the first attempt only."""

    what: What = "finish"
    steps: int = 0
    step_s: float = 0.01
    once: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillRequest:
    """The arguments as the handler sees them."""

    what: What
    steps: int
    step_s: float
    once: bool
    text: str


class Drill:
    """Performs drills, eight at a time."""

    request = DrillRequest
    slots = 8

    def load(self, place: Place) -> None:
        """Nothing to load."""

    def perform(self, request: DrillRequest, run: Run) -> Output:
        """Step, then do what the request says."""
        job = cast(Any, run).job  # more than the port shows: which attempt this is, for `once`
        attempt = int(job.attempt)
        _note(f"{job.id} {attempt} {os.getpid()}")
        for step in range(request.steps):
            run.checkpoint(step / request.steps)
            time.sleep(request.step_s)
        what = "finish" if request.once and attempt > 1 else request.what
        output: Output = _ACTIONS[what](request, run)
        return output

    def close(self) -> None:
        """Nothing to free."""


def _note(line: str) -> None:
    log = os.environ.get("DRILL_LOG")
    if log:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)


def _finish(request: DrillRequest, run: Run) -> Output:
    return Output(result={"card": "done"})


def _fail(request: DrillRequest, run: Run) -> Output:
    raise RuntimeError(request.text or "the drill failed")


def _refuse(request: DrillRequest, run: Run) -> Output:
    raise InputError("the drill does not like its input; give it another")


def _spoil(request: DrillRequest, run: Run) -> Output:
    with run.phase("decode"):
        raise RuntimeError("the codes of the drill are no codes")


def _devour(request: DrillRequest, run: Run) -> Output:
    hoard = []
    for _ in range(200):  # 3.2 GB; whoever is to end it does so long before
        hoard.append(b"x" * 16_000_000)
        run.checkpoint()
        time.sleep(0.02)
    raise AssertionError("nobody minded")


def _oom(request: DrillRequest, run: Run) -> Output:
    raise OutOfMemory("the drill ran out of memory")


def _card(request: DrillRequest, run: Run) -> Output:
    raise CardFailed("the drill broke the card")


def _segfault(request: DrillRequest, run: Run) -> Output:
    ctypes.string_at(0)
    raise AssertionError("unreachable")


def _kill(request: DrillRequest, run: Run) -> Output:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _exit(request: DrillRequest, run: Run) -> Output:
    raise SystemExit(3)


def _hang(request: DrillRequest, run: Run) -> Output:
    time.sleep(3600)
    raise AssertionError("unreachable")


def _hold_gil(request: DrillRequest, run: Run) -> Output:
    ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the lock: every thread of the process stands still
    raise AssertionError("unreachable")


def _nan(request: DrillRequest, run: Run) -> Output:
    return Output(result={"loss": float("nan")})


def _write(request: DrillRequest, run: Run) -> Output:
    path = Path(run.scratch) / "out.txt"
    path.write_text(request.text)
    return Output(
        result={"chars": len(request.text)},
        files=(OutputFile(name="out.txt", path=path, media_type="text/plain", role="text"),),
    )


_ACTIONS: dict[str, Any] = {
    "finish": _finish, "fail": _fail, "refuse": _refuse, "oom": _oom, "card": _card, "segfault": _segfault,
    "kill": _kill, "exit": _exit, "hang": _hang, "hold_gil": _hold_gil, "nan": _nan, "write": _write,
    "spoil": _spoil, "devour": _devour,
}  # fmt: skip

MODELS = [
    Model(
        id="drill",
        kind="drill",
        title="Does nothing, slowly, or goes wrong as told",
        arguments=DrillArguments,
        handler=f"{__name__}:Drill",
        licence="Apache-2.0",
    )
]
