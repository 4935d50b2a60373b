"""The benchmark of CSM: what is run, in which order, and what is made of it."""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from csm_sides import (
    Generate,
    Handlers,
    Load,
    Ours,
    save_folder,
    small_config,
)
from figures import in_turns, ratios, show, spread
from launches import per_frame

from soundmill.models.bench.bandwidth import copy_speed
from soundmill.models.bench.csm import frame_bytes
from soundmill.models.csm.checkpoint import random_model
from soundmill.models.csm.published import published_config
from soundmill.models.device import Device, open_device

FRAME_S = 0.08
SLOTS = 8
HANDLERS = 32

GOALS = {
    "1 slot ÷ generate 1": ("at least", 1.3),
    "8 slots ÷ generate 1": ("at least", 6.0),
    "8 slots ÷ generate 8": ("at least", 1.2),
    "mixed lengths, 8 slots ÷ generate 8": ("at least", 2.0),
    "step under 32 handlers ÷ alone": ("at most", 1.2),
    "rtf of 1 slot, modules": ("at most", 0.15),
    "rtf of 1 slot, fused": ("at most", 0.06),
    "audio_s per second at 64 slots with Mimi": ("at least", 400.0),
}


# -- on the processor ----------------------------------------------------------------------------------


def on_processor(options: argparse.Namespace) -> dict[str, Any]:
    """The sides in turns, launches, and steps under handlers."""
    torch.set_num_threads(options.threads)
    device = open_device(options.card, threads=options.threads)
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    config = small_config()
    model = random_model(config, "cpu", torch.float32)
    # One side of ours keeps the modules as they are; the fused one merges weights of its own copy.
    whole = random_model(config, "cpu", torch.float32)
    figures["parameters_m"] = round(sum(p.numel() for p in model.parameters()) / 1e6, 1)
    if "sides" in options.parts:
        figures |= _compared(options, device, model, whole)
    if "launches" in options.parts:
        figures["launches per frame"] = _launches(device, model, whole)
    del model, whole
    if "handlers" in options.parts:
        with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as folder:
            save_folder(config, Path(folder))
            figures |= _under_handlers(options, Path(folder))
    return figures


def _compared(options: argparse.Namespace, device: Device, model: Any, whole: Any) -> dict[str, Any]:
    equal = Load([options.frames] * SLOTS)
    one = Load([options.frames])
    chance = random.Random(1)
    mixed = Load([chance.randint(10, 60) for _ in range(options.mixed)])
    loads = {"1": one, "8": equal, "mixed": mixed}
    alone, many = Ours(whole, device, 1), Ours(whole, device, SLOTS)
    apart = Ours(model, device, SLOTS, fused=False)
    single, batch = Generate(model, 1), Generate(model, SLOTS)
    sides: dict[str, tuple[Callable[[Load], float], Load]] = {
        "generate 1": (single.run, one),
        "generate 8": (batch.run, equal),
        "1 slot": (alone.run_in_turn, one),
        "8 slots": (many.run, equal),
        "8 slots, modules": (apart.run, equal),
        "mixed, generate 8": (batch.run, mixed),
        "mixed, 8 slots": (many.run, mixed),
    }
    for work, load in sides.values():
        work(Load(load.frames[:SLOTS] if load is mixed else [3] * len(load.frames)))  # the first call is slow
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for name in in_turns(list(sides), options.rounds):
        work, load = sides[name]
        busy = time.process_time()
        seconds = work(load)
        cpu[name].append(load.total * FRAME_S / (time.process_time() - busy))
        rates[name].append(load.total * FRAME_S / seconds)
    for ours in (alone, many, apart):
        ours.close()
    pairs = {
        "1 slot ÷ generate 1": ("1 slot", "generate 1"),
        "8 slots ÷ generate 1": ("8 slots", "generate 1"),
        "8 slots ÷ generate 8": ("8 slots", "generate 8"),
        "8 slots with modules ÷ generate 8": ("8 slots, modules", "generate 8"),
        "mixed lengths, 8 slots ÷ generate 8": ("mixed, 8 slots", "mixed, generate 8"),
    }
    found: dict[str, Any] = {
        "loads": {name: list(load.frames) for name, load in loads.items()},
        "audio_s_per_s": {name: spread(values) for name, values in rates.items()},
        "audio_s_per_cpu_s": {name: spread(values) for name, values in cpu.items()},
    }
    found |= {name: ratios(rates[mine], rates[theirs]) for name, (mine, theirs) in pairs.items()}
    found["in seconds of the processor"] = {
        name: ratios(cpu[mine], cpu[theirs]) for name, (mine, theirs) in pairs.items()
    }
    show("audio-seconds per second", found["audio_s_per_s"])
    show("ratios", {name: found[name] for name in pairs})
    show("ratios, in seconds of the processor", found["in seconds of the processor"])
    return found


def _launches(device: Device, model: Any, whole: Any) -> dict[str, Any]:
    few, many = 2, 6
    generate = Generate(model, 1)
    found = {"generate": per_frame(lambda: generate.batch([few]), lambda: generate.batch([many]), many - few)}
    for name, fused in (("1 slot", True), ("1 slot, modules", False)):
        found[name] = _launches_of_step(device, whole if fused else model, fused=fused)
    print("\nlaunches and host reads of a frame")
    for name, counts in found.items():
        print(f"  {name:20} {counts['launches']:8.0f} launches {counts['host_reads']:6.1f} reads")
    return found


def _launches_of_step(device: Device, model: Any, *, fused: bool) -> dict[str, float]:
    """Counted on the step itself: the engine's own thread is not seen from here. Its one read comes on top."""
    from soundmill.models.csm.sizes import Sizes
    from soundmill.models.csm.speaker import Speaker

    speaker = Speaker(model, Sizes.of(model.config), device, graphs=False, fused=fused)
    speaker.reserve(1)

    def steps(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                speaker._step(1, 128)

    counts = per_frame(lambda: steps(1), lambda: steps(3), 2)
    return counts | {"host_reads": counts["host_reads"] + 1, "reads_in_step": counts["host_reads"]}


def _under_handlers(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The step of 8 rows while 32 handler threads are at work, beside the same step alone."""
    handlers = Handlers(folder, SLOTS, options.frames)
    alone: list[float] = []
    under: list[float] = []
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as scratch:
        handlers.alone(SLOTS, 1)
        for number in range(options.rounds):
            turns = [
                lambda: alone.append(statistics.median(handlers.alone(SLOTS, 2))),
                lambda: under.append(statistics.median(handlers.run(HANDLERS, 1, Path(scratch)))),
            ]
            for turn in turns if number % 2 else reversed(turns):
                turn()
    handlers.close()
    found = {
        "step alone, ms": spread(alone),
        "step under 32 handlers, ms": spread(under),
        "step under 32 handlers ÷ alone": ratios(under, alone),
    }
    show("steps of 8 rows", found)
    return found


# -- on a card -----------------------------------------------------------------------------------------


@torch.no_grad()
def on_card(options: argparse.Namespace) -> dict[str, Any]:
    """The published size in bf16 with random weights."""
    device = open_device(options.card)
    config = published_config()
    slots = [int(number) for number in options.slots.split(",")]
    figures: dict[str, Any] = {"card": device.name, "torch": torch.__version__, "frames": options.frames}
    model = random_model(config, device.torch_device, torch.bfloat16)
    whole = random_model(config, device.torch_device, torch.bfloat16)
    floor_ms = 1000 * frame_bytes(model) / copy_speed(device)
    figures["bandwidth floor of a frame, ms"] = round(floor_ms, 3)
    sides = {f"generate {batch}": _generating(model, batch, options.frames) for batch in (1, 8)}
    for name, fused, of in (("modules", False, model), ("fused", True, whole)):
        for count in slots:
            sides[f"{count} slots, {name}"] = _speaking(of, device, count, options.frames, fused=fused)
    sides["64 slots, fused, Mimi"] = _speaking(whole, device, 64, options.frames, fused=True, audio=True)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for name, side in sides.items():  # one after the other: all their caches together may not fit
        with side as work:
            work()
            seconds[name] = [work() for _ in range(options.rounds)]
    for name, times in seconds.items():
        rows = int(name.split()[1 if name.startswith("generate") else 0])
        audio_s = rows * options.frames * FRAME_S
        frame_ms = 1000 * statistics.median(times) / options.frames
        figures[name] = {
            "rtf of a row": round(statistics.median(times) / (options.frames * FRAME_S), 4),
            "audio_s per second": spread([audio_s / taken for taken in times]),
            "frame_ms": round(frame_ms, 3),
            "× of the bandwidth floor": round(frame_ms / floor_ms, 2),
        }
        print(f"  {name:24} {figures[name]}", flush=True)
    figures["rtf of 1 slot, modules"] = figures.get("1 slots, modules", {}).get("rtf of a row", 99.0)
    figures["rtf of 1 slot, fused"] = figures.get("1 slots, fused", {}).get("rtf of a row", 99.0)
    figures["audio_s per second at 64 slots with Mimi"] = figures["64 slots, fused, Mimi"][
        "audio_s per second"
    ]
    figures["launches and waits of a frame"] = _profiled(model, whole, device, options.frames)
    return figures


@contextmanager
def _generating(model: Any, batch: int, frames: int) -> Iterator[Callable[[], float]]:
    generate = Generate(model, batch)
    yield lambda: generate.run(Load([frames] * batch))


@contextmanager
def _speaking(
    model: Any, device: Device, slots: int, frames: int, *, fused: bool, audio: bool = False
) -> Iterator[Callable[[], float]]:
    ours = Ours(model, device, slots, fused=fused, audio=audio)
    try:
        yield lambda: ours.run(Load([frames] * slots))
    finally:
        ours.close()
        ours.speaker.reserve(0)  # its caches, before the next side makes its own
        device.empty_cache()


def _profiled(model: Any, whole: Any, device: Device, frames: int) -> dict[str, Any]:
    """What the host asks of the card: launches of kernels and of graphs, and waits."""
    found = {}
    sides = {
        "generate 1": _generating(model, 1, frames),
        "1 slot, modules": _speaking(model, device, 1, frames, fused=False),
        "1 slot, fused": _speaking(whole, device, 1, frames, fused=True),
    }
    for name, side in sides.items():
        with side as work:
            work()
            with torch.profiler.profile() as profile:
                work()
        counts = {event.key: event.count for event in profile.key_averages()}
        found[name] = {
            "launches": round(sum(n for key, n in counts.items() if "LaunchKernel" in key) / frames, 1),
            "graph_launches": round(sum(n for key, n in counts.items() if "GraphLaunch" in key) / frames, 2),
            "waits": round(sum(n for key, n in counts.items() if "Synchronize" in key) / frames, 2),
        }
        print(f"  {name:24} {found[name]}", flush=True)
    return found
