"""How fast Ming speaks: ours in 1, 4 and 8 slots beside the published loop, or a card by itself.

    python benchmarks/ming.py                                  # on the processor, some minutes
    python benchmarks/ming.py --rounds 5 --json figures.json
    python benchmarks/ming.py --card cuda:0 --published        # the published size, bf16, 1, 8 and 32 slots

On the processor all sides share one set of random tensors of half the published widths and depths (flow
network of 512, 4 blocks), get the same prompt and the same noise, make the same number of patches, and have to
make the same latents. The published loop is written down plainly in `sides/ming_plain.py` and makes one request
at a time, decoding patch by patch; ours makes as many as there are slots and decodes them together when they
are done. A side's time is that of the processor for this process, with one thread, so that what else the
machine does counts little; sides take turns, and ratios are taken round by round.

The flow network is bound by its matrix products. `bare products` repeats the calls of `linear` that ours made
in 8 slots, with the same shapes and the same weights, and nothing between them: the share of that speed which
ours reaches is what all else (norms, attention, rotations, sums, the inverse transform's cosines) leaves.

Audio counts with 0.32 s for a patch. With `--published` wall time counts, stops are ignored, and the floor is
the larger of the time to read the weights once a step at the speed of a copy, and of the products at the speed
of a large product, both measured on the card.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.pop(0)  # this folder, where `queue.py` would pass for the standard library's `queue`
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "sides"), str(HERE.parent)]

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from figures import in_turns, keep, machine, ratios, show, spread
from ming_plain import Plain
from ming_sizes import middle
from torch import Tensor
from torch.nn import functional

from soundmill.models.bench.bandwidth import copy_speed
from soundmill.models.device import Device, open_device
from soundmill.models.engine.draws import normals
from soundmill.models.engine.ports import Item, Row
from soundmill.models.ming.codec import Speech, SpeechDecoder
from soundmill.models.ming.config import MingConfig
from soundmill.models.ming.network import MingNetwork
from soundmill.models.ming.published import content
from soundmill.models.ming.rows import Latents, MingPrompt
from soundmill.models.ming.speech import SpeechSlots
from soundmill.models.ming.weights import in_memory, random_tensors

PROMPT = 60  # positions
GUIDANCE = 2.0
GOALS = {"1 slot ÷ published loop": 1.1, "8 slots ÷ published loop": 1.4, "8 slots ÷ bare products": 0.8}


class Ours:
    """So many rows at once, from the prompt to the samples."""

    def __init__(
        self, network: MingNetwork, device: Device, slots: int, patches: int, *, graphs: bool
    ) -> None:
        self._device, self._patches = device, patches
        self._model = SpeechSlots(network.generator, device, context=512, max_steps=patches, graphs=graphs)
        self._model.reserve(slots)
        self._decoder = SpeechDecoder(network.decoder, device)
        self.slots = slots
        self._model.warm_up(slots)

    def run(self) -> list[Latents]:
        """Make all rows; return their latents."""
        rows = [
            Row(prompt=prompt(seed, self._patches), positions=PROMPT, max_steps=self._patches + 1, slot=seed)
            for seed in range(self.slots)
        ]
        while not all(row.ready for row in rows):
            self._model.prefill([row for row in rows if not row.ready], 1024)
        for _ in range(self._patches):
            self._model.step(self.slots, rows).read()
            for row in rows:
                row.steps += 1
        made = [self._model.release(row, self._patches) for row in rows]
        items: list[Item[Latents, Speech]] = [Item(payload=latents) for latents in made]
        while waiting := [item for item in items if not item.done]:
            self._decoder.run(waiting, 10.0)
        return made


def prompt(seed: int, patches: int) -> MingPrompt:
    return MingPrompt(
        ids=tuple(range(PROMPT)),
        guidance=GUIDANCE,
        sigma=0.25,
        temperature=0.0,
        seed=seed,
        max_patches=patches,
        may_stop=False,
    )


def main() -> int:
    """Measure what the options ask for, print it, keep it."""
    options = _options()
    with torch.inference_mode():
        figures = _on_card(options) if options.published else _compared(options)
    keep(options.json or HERE / "results" / ("ming-card.json" if options.published else "ming.json"), figures)
    return 0 if all(figures.get("reached", {}).values()) else 1


# -- beside the published loop ---------------------------------------------------------------------


def _compared(options: argparse.Namespace) -> dict[str, Any]:
    device = open_device("cpu", threads=1)
    torch.set_num_threads(1)
    config, patches = middle(), options.patches
    tensors = random_tensors(config, seed=0)
    plain = Plain(tensors, config)
    network = MingNetwork(in_memory(tensors, dtype=torch.float32, device="cpu"), config)
    sides = {slots: Ours(network, device, slots, patches, graphs=False) for slots in (1, 4, 8)}
    ids, noise = torch.arange(PROMPT), _noise(config, patches)
    calls = _recorded(sides[8])

    def published_loop() -> None:
        latents, _ = plain.generate(ids, noise, GUIDANCE)
        torch.testing.assert_close(latents, expected, atol=1e-3, rtol=1e-3)

    def bare_products() -> None:
        for call in calls:  # a result is let go at once, as ours does
            functional.linear(*call)

    expected = sides[8].run()[0].values
    work: dict[str, tuple[Callable[[], object], int]] = {
        "published loop": (published_loop, 1),
        **{f"{slots} slot{'s' * (slots > 1)}": (ours.run, slots) for slots, ours in sides.items()},
        "bare products": (bare_products, 8),
    }
    audio_s = patches / config.patches_per_s
    speeds: dict[str, list[float]] = {name: [] for name in work}
    for warm in ("published loop", "bare products"):  # ours has run already
        work[warm][0]()
    for name in in_turns(list(work), options.rounds):
        run, rows = work[name]
        begun = time.process_time()
        run()
        speeds[name].append(rows * audio_s / (time.process_time() - begun))
        print(f"  {name:16} {speeds[name][-1]:.3f}", file=sys.stderr, flush=True)
    compared = {
        goal: ratios(speeds[goal.partition(" ÷ ")[0]], speeds[goal.partition(" ÷ ")[2]]) for goal in GOALS
    }
    shown = {name: spread(values) for name, values in speeds.items()}
    show("audio-seconds per second of one core", shown)
    show("ratios", compared)
    return {
        "machine": machine() | {"torch": torch.__version__, "threads": 1},
        "load": {
            "patches": patches,
            "prompt": PROMPT,
            "rounds": options.rounds,
            "flow_steps": 10,
            "cfg": GUIDANCE,
        },
        "audio_s_per_s": shown,
        "ratios": compared,
        "goals": GOALS,
        "reached": {name: compared[name]["median"] >= least for name, least in GOALS.items()},
    }


def _noise(config: MingConfig, patches: int) -> Tensor:
    """What row 0 of ours draws at first, for the other side."""
    size = config.patch * config.audio.channels
    return torch.from_numpy(normals(0, 0, patches, size)).view(patches, config.patch, config.audio.channels)


def _recorded(ours: Ours) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """The arguments of each product of a run; inputs of one shape share their memory."""
    calls: list[tuple[Tensor, Tensor, Tensor | None]] = []
    inputs: dict[tuple[int, ...], Tensor] = {}
    original = functional.linear

    def recording(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        calls.append((inputs.setdefault(tuple(x.shape), torch.randn(x.shape)), weight, bias))
        return original(x, weight, bias)

    functional.linear = recording
    try:
        ours.run()
    finally:
        functional.linear = original
    return calls


# -- a card by itself ------------------------------------------------------------------------------


def _on_card(options: argparse.Namespace) -> dict[str, Any]:
    device = open_device(options.card)
    device.bind_thread()
    config = MingConfig.parse(content()) if options.size == "published" else middle()
    dtype, codec = device.dtype(options.dtype), device.dtype(options.codec_dtype)
    tensors = random_tensors(config, seed=0, dtype=dtype, device=device.torch_device)
    network = MingNetwork(
        in_memory(tensors, dtype=dtype, device=device.torch_device), config, codec_dtype=codec
    )
    del tensors
    speeds = _card_speeds(device, dtype)
    rows: dict[str, dict[str, Any]] = {}
    for slots in options.slots:
        ours = Ours(network, device, slots, options.patches, graphs=device.graphs(options.graphs))
        ours.run()
        took = [_seconds(device, ours.run) for _ in range(options.rounds)]
        audio_s = options.patches / config.patches_per_s
        floor_s = options.patches * _floor_s(slots, speeds)
        rows[f"{slots} slots"] = {
            "audio_s_per_s": spread([slots * audio_s / seconds for seconds in took]),
            "real_time_factor": spread([seconds / audio_s for seconds in took]),
            "step_ms": spread([1000 * seconds / options.patches for seconds in took]),
        }
        if options.size == "published":  # whose bytes and operations are known
            rows[f"{slots} slots"]["times_the_floor"] = round(statistics.median(took) / floor_s, 2)
        print(slots, rows[f"{slots} slots"], flush=True)
    return {
        "machine": machine() | {"torch": torch.__version__, "card": device.name},
        "load": {
            "patches": options.patches, "prompt": PROMPT, "rounds": options.rounds, "flow_steps": 10,
            "size": options.size,
            "dtype": options.dtype, "codec_dtype": options.codec_dtype, "graphs": options.graphs,
        },
        "measured": speeds,
        "slots": rows,
    }  # fmt: skip


def _seconds(device: Device, work: Callable[[], object]) -> float:
    device.sync()
    begun = time.perf_counter()
    work()
    device.sync()
    return time.perf_counter() - begun


def _card_speeds(device: Device, dtype: torch.dtype) -> dict[str, float]:
    """Bytes per second of a copy's reads and writes, and operations per second of a large product."""
    width = 1024 if device.immediate else 8192
    square = torch.zeros(width, width, dtype=dtype, device=device.torch_device)
    product_s = min(_seconds(device, lambda: square @ square) for _ in range(5))
    return {"bytes_per_s": copy_speed(device), "operations_per_s": 2 * width**3 / product_s}


def _floor_s(rows: int, speeds: dict[str, float]) -> float:
    """The least time of a step in bf16: reading 3.71 GB, or 163.5 GFLOP for each row."""
    return max(3.71e9 / speeds["bytes_per_s"], rows * 163.5e9 / speeds["operations_per_s"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patches", type=int, default=8)
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--size", choices=["published", "middle"], default="published", help="of --published")
    parser.add_argument("--card", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--codec-dtype", default="fp32")
    parser.add_argument("--graphs", default="auto")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
