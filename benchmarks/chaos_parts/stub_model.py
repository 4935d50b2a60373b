"""Two models that compute nothing, in the real engine: each call takes 50 to 150 ms for up to eight jobs.

Loaded by the setting `plugins`. Before each call the engine's thread looks into the folder that
`CHAOS_ORDERS` names: a file `<card>.<kind>` is an order for this card to go wrong, and is taken by
removing it. What a job makes says what it read, so that the bytes can be checked afterwards.

Where `CHAOS_ENGINE` is `off`, the calls happen in the handler's own threads and torch is not loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from event_log import note

from soundmill.models.errors import InputError
from soundmill.models.handler import Output, OutputFile, Run
from soundmill.models.place import Place
from soundmill.storage.arguments import Arguments, AudioInput
from soundmill.storage.catalog import Model

SLOTS = 8
LEAST_S, MOST_S = 0.05, 0.15
ORDERS = "CHAOS_ORDERS"
ENGINE = "CHAOS_ENGINE"

Goes = Literal["well", "fails_once", "fails", "refuses"]


class StubArguments(Arguments):
    """`calls` of the engine; `fresh` bytes differ between two executions."""

    text: str
    calls: int = 1
    fresh: bool = False
    size: int = 2000
    goes: Goes = "well"
    audio: AudioInput | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StubRequest:
    """The arguments as the handler sees them."""

    text: str
    calls: int
    fresh: bool
    size: int
    goes: Goes
    audio: Path | None


class Orders:
    """What this card is told to do wrong."""

    def __init__(self, card: str) -> None:
        self._card = card.replace(":", "-")
        self._folder = Path(os.environ[ORDERS])

    def obey(self) -> None:
        """Take an order, if there is one, and go wrong."""
        for path in sorted(self._folder.glob(f"{self._card}.*")):
            kind = path.suffix.removeprefix(".")
            try:
                order = json.loads(path.read_text())
                if order["times"] > 1:
                    path.write_text(json.dumps(order | {"times": order["times"] - 1}))
                else:
                    path.unlink()
            except (OSError, ValueError):
                continue  # it was withdrawn
            note("order", kind=kind, card=self._card, pid=os.getpid())
            _go_wrong(kind, order["text"])


def _go_wrong(kind: str, text: str) -> None:
    if kind == "hang":
        time.sleep(3600)
    elif kind == "segfault":
        ctypes.string_at(0)
    elif kind == "exit":
        os.kill(os.getpid(), signal.SIGABRT)
    elif kind == "oom":
        raise _out_of_memory(text)
    else:
        raise RuntimeError(text)


def _out_of_memory(text: str) -> Exception:
    import torch

    return torch.OutOfMemoryError(text)


class Calls:
    """The engine's side: every call brings all its items one step on."""

    max_items = SLOTS

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._rng = random.Random()

    def run(self, items: Sequence[Any], time_budget_s: float) -> None:
        """One call. Nothing has advanced when it raises."""
        self._orders.obey()
        time.sleep(self._rng.uniform(LEAST_S, MOST_S))
        for item in items:
            item.state = (item.state or 0) + 1
            item.progress = min(item.state / item.payload, 1.0)
            item.done = item.state >= item.payload
            item.result = item.state


class Stub:
    """Performs jobs by calls of the engine, or without one."""

    request = StubRequest
    slots = SLOTS
    lane = "stub"

    def load(self, place: Place) -> None:
        """Add the lane to the card's engine."""
        self._orders = Orders(place.card)
        self._engine = None if os.environ.get(ENGINE) == "off" else place.engine
        self._turn = threading.Lock()
        if self._engine is not None:
            self._engine.add_batch(self.lane, Calls(self._orders))

    def perform(self, request: StubRequest, run: Run) -> Output:
        """Note that it began, call, write, note what was made."""
        job = cast(Any, run).job  # more than the port shows: the fence, for the log
        note(
            "begin", job=job.id, attempt=job.attempt, model=job.model, priority=job.priority, pid=os.getpid(),
            available_at=job.available_at, started_at=job.started_at, alone=job.suspect,
        )  # fmt: skip
        self._call(request.calls, run)
        if request.goes == "refuses":
            raise InputError("the stub does not like its input; give it another")
        if request.goes == "fails" or (request.goes == "fails_once" and job.failures == 0):
            raise RuntimeError("the stub failed as it was told")
        path = run.scratch / "out.wav"
        path.write_bytes(made_of(request))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        note("end", job=job.id, attempt=job.attempt, sha256=sha256)
        file = OutputFile(name="out.wav", path=path, media_type="audio/wav", role="audio")
        return Output(result={"sha256": sha256}, files=(file,), metrics={"audio_s": 1.0})

    def _call(self, calls: int, run: Run) -> None:
        if self._engine is not None:
            self._engine.process(self.lane, calls).wait(run)
            return
        for step in range(calls):
            with self._turn:
                self._orders.obey()
            run.checkpoint(step / calls)
            time.sleep(random.uniform(LEAST_S, MOST_S))

    def close(self) -> None:
        """Nothing to free."""


class Voice(Stub):
    """The lane of the model that makes something of a text."""

    lane = "stub-voice"


class Align(Stub):
    """The lane of the model that also reads what another job made."""

    lane = "stub-align"


def made_of(request: StubRequest) -> bytes:
    """What a request makes: a line that says of what, and padding."""
    read = None if request.audio is None else hashlib.sha256(request.audio.read_bytes()).hexdigest()
    nonce = os.urandom(8).hex() if request.fresh else ""
    head = json.dumps({"text": request.text, "read": read, "nonce": nonce}).encode() + b"\n"
    block = hashlib.sha256(head).digest()
    return (head + block * (request.size // len(block) + 1))[: max(request.size, len(head))]


MODELS = [
    Model(
        id=f"stub-{name}",
        kind=kind,
        title="Nothing, slowly, for the chaos run",
        arguments=StubArguments,
        handler=f"{__name__}:{handler.__name__}",
        licence="Apache-2.0",
        audio_fields=("audio",),
    )
    for name, kind, handler in (("voice", "tts", Voice), ("align", "align", Align))
]
