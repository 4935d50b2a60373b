"""The benchmark of the captioner: what is run, in which order, and what is made of it."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from captioner_sides import Generate, Load, Ours, Seen, in_turn, published, small_checkpoint
from figures import in_turns, ratios, show, spread

CONCURRENCIES = (1, 8, 32)
TOKENS = 128  # of each request on a card

GOALS = {
    "8 clips ÷ generate 1": ("at least", 5.0),
    "8 clips ÷ generate 8": ("at least", 1.5),
    "first token, generate 1 ÷ 1 clip": ("at least", 1.0),
    "first token, 8 generates in turn ÷ 8 clips": ("at least", 1.0),
    "tokens/s at 8": ("at least", 1000.0),
    "tokens/s at 32": ("at least", 3500.0),
}


def on_processor(options: argparse.Namespace) -> dict[str, Any]:
    """Our engine and `generate` in turns, on the same checkpoint."""
    torch.set_num_threads(options.threads)
    load = Load.mixed()
    print(load, flush=True)
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as folder:
        small_checkpoint(Path(folder))
        ours, theirs = Ours(Path(folder), options.threads), Generate(Path(folder))
        print(f"{theirs.parameters / 1e6:.1f} M parameters, fp32, {options.threads} thread(s)", flush=True)
        sides: dict[str, Callable[[], Seen]] = {
            "1 clip": lambda: in_turn(ours.run, load),
            "generate 1": lambda: in_turn(theirs.run, load),
            "8 clips": lambda: ours.run(load),
            "generate 8": lambda: theirs.run(load),
        }
        for side in sides.values():
            side()  # the first call of anything is slow
        seen: dict[str, list[Seen]] = {name: [] for name in sides}
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        for name in in_turns(list(sides), options.rounds):
            busy = time.process_time()
            seen[name].append(sides[name]())
            cpu[name].append(seen[name][-1].tokens / (time.process_time() - busy))
        ours.close()
    _check(seen)
    return {"load": str(load), "threads": options.threads, "torch": torch.__version__} | _figures(seen, cpu)


def _check(seen: dict[str, list[Seen]]) -> None:
    """Speed counts for nothing if the sides do not write the same."""
    for side in ("1 clip", "8 clips"):
        assert seen[side][0].ids == seen["generate 1"][0].ids, f"{side} and generate 1 write different tokens"


def _figures(seen: dict[str, list[Seen]], cpu: dict[str, list[float]]) -> dict[str, Any]:
    rates = {name: [one.tokens / one.seconds for one in rounds] for name, rounds in seen.items()}
    firsts = {name: [1000 * one.first_s for one in rounds] for name, rounds in seen.items()}
    waited = {name: [1000 * one.waited_s for one in rounds] for name, rounds in seen.items()}
    pairs = {
        "8 clips ÷ generate 1": ("8 clips", "generate 1"),
        "8 clips ÷ generate 8": ("8 clips", "generate 8"),
        "1 clip ÷ generate 1": ("1 clip", "generate 1"),
    }
    waits = {
        "first token, generate 1 ÷ 1 clip": ratios(firsts["generate 1"], firsts["1 clip"]),
        "first token, 8 generates in turn ÷ 8 clips": ratios(waited["generate 1"], waited["8 clips"]),
    }
    found: dict[str, Any] = {
        "tokens per second": {name: spread(values) for name, values in rates.items()},
        "median first token, ms": {name: spread(values) for name, values in firsts.items()},
        **{name: ratios(rates[mine], rates[theirs]) for name, (mine, theirs) in pairs.items()},
        **waits,
        "in seconds of the processor": {
            name: ratios(cpu[mine], cpu[theirs]) for name, (mine, theirs) in pairs.items()
        },
    }
    show("tokens per second", found["tokens per second"])
    show("median wait for a first token, ms", found["median first token, ms"])
    show("ratios", {name: found[name] for name in (*pairs, *waits)})
    show("ratios, in seconds of the processor", found["in seconds of the processor"])
    return found


def on_card(options: argparse.Namespace) -> dict[str, Any]:
    """The published size with random weights, requests in a closed loop."""
    figures: dict[str, Any] = {"card": options.card, "torch": torch.__version__, "runs": []}
    for line in published(options.card, CONCURRENCIES, tokens=TOKENS):
        figures["runs"].append(line)
        figures[f"tokens/s at {line['concurrency']}"] = line["output_tokens_per_s"]
        print(
            "  {concurrency:3} at once: {requests_per_s:7.2f} requests/s, {output_tokens_per_s:8.1f} output and "
            "{total_tokens_per_s:9.1f} total tokens/s; first token {first_p50_ms:.0f} ms (p99 {first_p99_ms:.0f}), "
            "TPOT {tpot_ms:.2f} ms, step {step_ms:.2f} ms, {floors:.2f} × the floor".format(**line),
            flush=True,
        )
    return figures
