"""How fast the engine speaks, beside transformers' own `generate` on the same weights in the same run.

    python benchmarks/engine.py                                  # a small random CSM on the processor, minutes
    python benchmarks/engine.py --rounds 5 --output figures.json
    python benchmarks/engine.py --card cuda:0                    # the published size in bf16, on a card
    python benchmarks/engine.py --model captioner                # the same for captions

On the processor: CSM with a backbone of 8 layers and 512 wide and a depth decoder of 4 and 256, 32 codebooks of
2,051 ids, random weights, fp32, sampling at temperature 0.9 and top-k 50, prompts of 60 tokens. Rows make as many
frames as they are told, whatever the weights say; codes only, no codec, on both sides. The number of threads is set;
sides take turns, and the ratio of each round is what counts. Seconds are those of the clock; the same ratios in
seconds of the processor stand beside them, since those of the clock swing with whatever else runs here.

Mixed lengths are 10 to 60 frames: `generate` runs a batch until its longest row is done, and its useful frames
count. Launches are counted as operations of torch that compute or copy, host reads as operations whose result the host
waits for. Under handlers: 32 threads perform whole jobs with the real handler, from text to FLAC, on 8 slots.

On a card: real-time factor at 1, 8, 32 and 64 slots, with the modules of transformers and with the fused depth
loop, `generate` at 1 and 8 beside them, audio-seconds per second with Mimi, and how many times the time is in which
the card could read each frame's weights once at the speed of a copy. Launches and waits are those of the profiler.
The captioner: 8 layers of the widths of the tests' tiny model, fp32, greedy, eight clips of 2 to 12 s with 48 to 150
forced tokens, from their spectra on; `generate` gets the clips at their real length, one by one and as one batch.
Both sides must write the same ids. On a card: clips of 30 s with 128 forced tokens at 1, 8 and 32 at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.pop(0)  # this folder, where `queue.py` would pass for the standard library's `queue`
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "sides"), str(HERE.parent)]

import argparse
import json
from collections.abc import Callable
from typing import Any

import captioner_bench
import csm_bench
from figures import keep, machine

MODELS: dict[str, Any] = {"captioner": captioner_bench, "csm": csm_bench}
"""Modules with `GOALS`, `on_processor(options)` and `on_card(options)`, each of which returns figures."""


def main() -> int:
    """Run what the options ask for, print it, keep the figures."""
    options = _options()
    bench = MODELS[options.model]
    work: Callable[[argparse.Namespace], dict[str, Any]] = (
        bench.on_processor if options.card.startswith("cpu") else bench.on_card
    )
    figures = {"machine": machine(), "options": _plain(options)} | work(options)
    figures["goals"] = _judged(figures, bench.GOALS)
    if options.output:
        known = json.loads(options.output.read_text()) if options.add and options.output.exists() else {}
        goals = known.get("goals", {}) | figures["goals"]
        keep(options.output, known | figures | {"goals": goals})
    return 0


def _judged(figures: dict[str, Any], goals: dict[str, tuple[str, float]]) -> dict[str, Any]:
    """Which goals were met; each is a figure's name, whether it is a floor or a ceiling, and how much."""
    found = {}
    for name, (kind, wanted) in goals.items():
        if name not in figures:
            continue
        value = figures[name]
        reached = value["median"] if isinstance(value, dict) else value
        met = reached >= wanted if kind == "at least" else reached <= wanted
        found[name] = {"goal": f"{kind} {wanted:g}", "reached": reached, "met": met}
        print(f"  {'met   ' if met else 'MISSED'}  {name}: {kind} {wanted:g}, reached {reached:.3g}")
    return found


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(MODELS), default="csm")
    parser.add_argument("--card", default="cpu:0", help="cpu:0, cuda:0, npu:0")
    parser.add_argument("--rounds", type=int, default=5, help="how often the sides take turns")
    parser.add_argument("--frames", type=int, default=24, help="frames of a row where all are alike")
    parser.add_argument("--mixed", type=int, default=48, help="rows of 10 to 60 frames")
    parser.add_argument("--parts", default="sides,launches,handlers", help="what is run on the processor")
    parser.add_argument("--threads", type=int, default=1, help="with which a processor computes")
    parser.add_argument("--slots", default="1,8,32,64", help="on a card")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--add", action="store_true", help="keep what other parts have written there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
