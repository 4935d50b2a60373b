"""The parts of a model one by one, on the processor and on the card: the kind `components`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .figures import Spread, significant, spread
from .results import heading, sizes
from .session import Gate, Opened, Tell, opened, source_of

if TYPE_CHECKING:
    from ..device import Device
    from .plan import Plan
    from .subject import Part

LEAST_WARMUP = 1


def measure_components(plan: Plan, tell: Tell, gate: Gate) -> dict[str, Any]:
    """See `session.measure`. The document has a list of `components`.

    On a card each part is timed on the processor, too, in fp32; what the card takes includes waiting for it.
    """
    source = source_of(plan)
    with opened(plan, source) as held:
        immediate = held.device.immediate
        tell(f"loading on {held.device}")
        load_s = held.load()
        document = heading(held.plan, held.device, held.dtype) | sizes(held.subject, source)
        document["run"] |= {"seq_len": plan.seq_len, "slots": [], "frames": [], "texts": {}}
        gate()
        timed = _timed(held, plan, tell)
    beside: dict[str, Spread] = {}
    if not immediate:
        gc.collect()
        with opened(replace(plan, device="cpu", dtype="auto", graphs="off"), source) as processor:
            tell("loading on the processor")
            processor.load()
            beside = _timed(processor, plan, tell)
    rows = [_row(name, timed[name], beside.get(name), processor=immediate) for name in timed]
    return document | {"load_s": significant(load_s), "components": rows}


def _timed(held: Opened, plan: Plan, tell: Tell) -> dict[str, Spread]:
    """Milliseconds of each part, in the order in which they work."""
    found: dict[str, Spread] = {}
    graphs = held.device.graphs(plan.graphs)
    for part in held.on_card(lambda: held.subject.parts(held.device, plan.seq_len, graphs=graphs)):
        tell(f"{held.device}: {part.name}")
        found[part.name] = held.on_card(partial(_time, part, plan, held.device))
    return found


def _time(part: Part, plan: Plan, device: Device) -> Spread:
    import torch

    with torch.inference_mode():
        call = part.prepare()
        for _ in range(max(plan.warmup, LEAST_WARMUP)):
            call()
        return spread([_milliseconds(call, device) for _ in range(plan.runs)])


def _milliseconds(call: Callable[[], object], device: Device) -> float:
    device.sync()
    begun = time.perf_counter()
    call()
    device.sync()
    return 1000 * (time.perf_counter() - begun)


def _row(name: str, measured: Spread, beside: Spread | None, *, processor: bool) -> dict[str, Any]:
    cpu = measured if processor else beside
    speed_up = None if processor or beside is None else significant(beside["median"] / measured["median"])
    return {"name": name, "cpu_ms": cpu, "device_ms": None if processor else measured, "speed_up": speed_up}
