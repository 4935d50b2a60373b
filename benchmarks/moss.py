"""How fast MOSS speaks: the published size with random weights, beside a plain transcription of its structure.

    python benchmarks/moss.py --json benchmarks/results/moss.json   # 1 and 2 threads; some 5 minutes
    python benchmarks/moss.py --threads 2 --rounds 5 --frames 48
    python benchmarks/moss.py --device cuda:0                       # bf16, captured steps, 1, 8 and 64 slots

The sides take turns in each round. Each runs a fixed number of frames behind a prompt of 300 rows (78 of the
template, 150 of a reference, 72 of text), draws with the published rules, ignores the gate's stop, and decodes
its frames to sound; the prompt's own time is told apart. A frame is 80 ms; the real-time factor of 8 slots is
that of all together.

- `plain`: one row as published: the local transformer without a cache, the full text head at the gate, one
  codec frame per call; fp32 (see `sides/moss_plain.py`).
- `fp32`, `bf16`, `int8` with 1 and 8 slots: the slot model and the codec's batch model as the engine calls
  them. The 8 rows have one voice, which is prefilled once. int8 are the linear layers of the language model in
  torch's own dynamic quantisation; the codec is fp32 always.

Every side of a run may use the same number of threads, and a thread that waits sleeps, as in a worker. A step of
few int8 rows takes one of them only (see `models/moss/linear.py`).

Beside the speed: how far bf16 and int8 logits are from fp32 over the same rows, which says more about
arithmetic than about voices, as the weights are random; and what one layer takes in each form, in those of
torchao too where it is installed, which without a compiler are several times slower than fp32. Processor time is told beside
wall time, since other programs on the machine lengthen only the latter; ratios are taken round by round.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Instead of this folder, whose `queue.py` would pass for the standard library's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import functools
import gc
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as a worker has it; read when torch is imported

import torch
from benchmarks.sides.figures import in_turns, ratios, spread
from benchmarks.sides.moss_plain import PlainCodec, PlainLanguageModel

from soundmill.models.bench.moss import AUDIO, GATE
from soundmill.models.device import Device, open_device
from soundmill.models.engine.ports import Item, Row
from soundmill.models.moss.codec import Codec
from soundmill.models.moss.codec_calls import SpeechDecoder
from soundmill.models.moss.config import CodecConfig, LanguageConfig
from soundmill.models.moss.language_model import LanguageModel
from soundmill.models.moss.linear import make_linear
from soundmill.models.moss.published import CODEC, LANGUAGE
from soundmill.models.moss.random_weights import RandomWeights
from soundmill.models.moss.slots import MossSlots, Prompt

FRAME_S = 0.08
PROMPT_ROWS = 300
CONTEXT = 1280
CPU_GOALS = {
    "fp32 1": 1.5, "bf16 1": 2.5, "int8 1": 4.0, "fp32 8": 5.0, "bf16 8": 8.0, "int8 8": 8.0,
}  # fmt: skip
"""Of the plain side's frames per second."""

REAL_TIME_GOALS = {"bf16 1": 1.0, "int8 1": 1.0, "fp32 8": 0.25, "bf16 8": 0.25, "int8 8": 0.25}
"""Seconds for each second of audio, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """What one turn of a side took, for each frame of each row, in seconds."""

    model_s: float
    codec_s: float
    cpu_s: float
    prefill_s: float

    @property
    def frame_s(self) -> float:
        return self.model_s + self.codec_s


def prompt(rows: int = PROMPT_ROWS) -> torch.Tensor:
    """Any rows: their values make no difference to the speed."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.full((rows, 1 + LANGUAGE["n_vq"]), LANGUAGE["audio_pad_token_id"])
    ids[:, 0] = torch.randint(20, 16000, (rows,), generator=generator)
    ids[14:164, 1:] = torch.randint(0, 1024, (150, LANGUAGE["n_vq"]), generator=generator)
    return ids


class Plain:
    """The side that others are compared with."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        with torch.inference_mode():
            self._model, self._codec = PlainLanguageModel(), PlainCodec()

    @torch.inference_mode()
    def __call__(self) -> Took:
        began = time.perf_counter()
        hidden = self._model.begin(prompt())
        self._codec.reset()
        prefill, cpu = time.perf_counter() - began, time.process_time()
        model_s = codec_s = 0.0
        for _ in range(self._frames):
            at = time.perf_counter()
            codes, hidden = self._model.frame(hidden)
            between = time.perf_counter()
            self._codec.decode(codes)
            codec_s += time.perf_counter() - between
            model_s += between - at
        count = self._frames
        return Took(
            model_s=model_s / count, codec_s=codec_s / count, prefill_s=prefill,
            cpu_s=(time.process_time() - cpu) / count,
        )  # fmt: skip


class Ours:
    """Rows of one prompt in all slots."""

    def __init__(
        self, slots: MossSlots, decoder: SpeechDecoder, device: Device, count: int, frames: int
    ) -> None:
        self._slots, self._decoder, self._device = slots, decoder, device
        self._count, self._frames = count, frames

    def __call__(self) -> Took:
        with torch.inference_mode():
            self._slots.reserve(self._count)
        rows = [self._row(slot) for slot in range(self._count)]
        began = time.perf_counter()
        while not all(row.ready for row in rows):
            self._slots.prefill([row for row in rows if not row.ready], 1024)
        self._device.sync()
        prefill = time.perf_counter() - began
        for _ in range(WARM if self._slots._graphs else 0):
            self._slots.step(self._count, rows).read()
        cpu, began = time.process_time(), time.perf_counter()
        for _ in range(self._frames):
            self._slots.step(self._count, rows).read()
            for row in rows:
                row.steps += 1
        between = time.perf_counter()
        items = [Item(payload=self._slots.release(row, self._frames)) for row in rows]
        with torch.inference_mode():
            while waiting := [item for item in items if not item.done]:
                self._decoder.run(waiting, 0.05)
        count = self._count * self._frames
        return Took(
            model_s=(between - began) / count, codec_s=(time.perf_counter() - between) / count,
            cpu_s=(time.process_time() - cpu) / count, prefill_s=prefill,
        )  # fmt: skip

    def _row(self, slot: int) -> Row[Prompt]:
        voice, shared = ("the same", PROMPT_ROWS - 1) if self._count > 1 else (None, 0)
        wanted = Prompt(
            rows=prompt(), voice=voice, shared=shared, codebooks=LANGUAGE["n_vq"], gate=GATE, audio=AUDIO,
            seed=slot,
        )  # fmt: skip
        return Row(prompt=wanted, positions=PROMPT_ROWS, max_steps=self._frames, slot=slot)


WARM = 3  # the third call of a shape is captured


def load(form: str, device: Device) -> LanguageModel:
    """The published size in one arithmetic."""
    with torch.inference_mode():
        return LanguageModel(
            LanguageConfig.parse(LANGUAGE), RandomWeights(), device=device.torch_device, positions=CONTEXT + 1,
            dtype=torch.bfloat16 if form == "bf16" else torch.float32,
            form="int8" if form == "int8" else None,
        )  # fmt: skip


def make_slots(model: LanguageModel, device: Device, *, graphs: bool) -> MossSlots:
    """Slots with room for one kept voice."""
    return MossSlots(model, device, context=CONTEXT, graphs=graphs, voices=1, longest_prefix=PROMPT_ROWS)


@torch.inference_mode()
def logits_of(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    """The logits of every codebook behind every row, each fed what the rows hold: `[T, K, V]`."""
    cache = model.cache(len(ids))
    cache.reserve(1)
    turn = cache.plan(torch.zeros(1, dtype=torch.int64), len(ids), rows=[0])
    hidden = model.forward(model.embed(ids[None]), cache, turn)[0]
    local, x, found = model.spell(hidden), model.go_on(len(ids)), []
    local.first()
    for book in range(model.config.codebooks):
        found.append(model.audio_logits(local.next(x), book))
        x = model.code_embedding(ids[:, 1 + book].clamp(max=1023), book)
    return torch.stack(found, dim=1)


def quality(exact: torch.Tensor, found: torch.Tensor) -> dict[str, float]:
    """How far logits are from those of fp32."""
    log_p = (exact / AUDIO.temperature).log_softmax(-1)
    log_q = (found / AUDIO.temperature).log_softmax(-1)
    similar = torch.cosine_similarity(exact, found, dim=-1)
    return {
        "least_cosine": round(float(similar.min()), 5),
        "mean_cosine": round(float(similar.mean()), 6),
        "same_likeliest": round(float((exact.argmax(-1) == found.argmax(-1)).float().mean()), 4),
        "mean_kl": round(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), 6),
    }


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def on_processor(options: argparse.Namespace) -> dict[str, Any]:
    """Both kinds of side in turns, once for each number of threads."""
    counts = [int(count) for count in options.threads.split(",")]
    device = open_device("cpu", threads=max(counts))
    with torch.inference_mode():
        codec = Codec(CodecConfig.parse(CODEC), RandomWeights(), device.torch_device)
    forms = [form for form in ("fp32", "bf16", "int8") if form != "bf16" or has_bf16()]
    models = {form: load(form, device) for form in forms}
    logits = {form: logits_of(model, prompt()) for form, model in models.items()}
    told = {form: quality(logits["fp32"], logits[form]) for form in forms if form != "fp32"}
    del logits
    sides: dict[str, Callable[[], Took]] = {"plain": Plain(options.frames // 2)}
    for form, model in models.items():
        for count in (1, 8):
            slots, decoder = make_slots(model, device, graphs=False), SpeechDecoder(codec, device)
            sides[f"{form} {count}"] = Ours(slots, decoder, device, count, options.frames)
    runs = {}
    for count in counts:
        print(f"{count} thread(s)", file=sys.stderr, flush=True)
        torch.set_num_threads(count)
        runs[str(count)] = with_threads(sides, options.rounds)
    return {
        "by_threads": runs, "goals": CPU_GOALS, "real_time_goals": REAL_TIME_GOALS,
        "logits_beside_fp32": told,
    }  # fmt: skip


def with_threads(sides: Mapping[str, Callable[[], Took]], rounds: int) -> dict[str, Any]:
    """The figures of all sides with as many threads as torch now has."""
    found = measure(sides, rounds)
    plain = found["plain"]
    beside = {
        name: ratios([other.frame_s for other in plain], [took.frame_s for took in times])
        for name, times in found.items()
        if name != "plain"
    }
    return {"sides": figures(found), "times_plain": beside, "layer_us": layers()}


@torch.inference_mode()
def layers(outputs: int = 3072, inputs: int = 768) -> dict[str, dict[str, float]]:
    """What the MLP's first layer takes for one row, in microseconds."""
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(outputs, inputs, generator=generator), torch.zeros(outputs)
    x = torch.randn(1, inputs, generator=generator)
    forms: dict[str, Callable[[], Any]] = {}
    for name, form, dtype in (
        ("fp32", "packed", torch.float32), ("bf16", "packed", torch.bfloat16), ("int8", "int8", torch.float32),
    ):  # fmt: skip
        if name != "bf16" or has_bf16():
            layer, given = make_linear(weight.to(dtype), bias.to(dtype), form, "none"), x.to(dtype)
            forms[name] = functools.partial(layer, given)
    for name, module in of_torchao(weight, bias).items():
        forms[name] = functools.partial(module, x)
    return {name: spread([1e6 * seconds for seconds in timed(form)]) for name, form in forms.items()}


def of_torchao(weight: torch.Tensor, bias: torch.Tensor) -> dict[str, torch.nn.Module]:
    """The layer as torchao makes it, run without a compiler; none where it is not installed."""
    try:
        from torchao import quantization
    except ImportError:
        return {}
    found = {}
    for name in ("Int8DynamicActivationInt8WeightConfig", "Int8WeightOnlyConfig"):
        with torch.inference_mode(False), torch.no_grad():
            layer = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0]))
            layer[0].weight.copy_(weight)
            layer[0].bias.copy_(bias)
            quantization.quantize_(layer, getattr(quantization, name)())
        found[f"torchao {name}"] = layer
    return found


def timed(call: Callable[[], Any], times: int = 100) -> list[float]:
    """Seconds of each call, behind some that do not count."""
    found = []
    for _ in range(times + 10):
        at = time.perf_counter()
        call()
        found.append(time.perf_counter() - at)
    return found[10:]


def on_card(options: argparse.Namespace) -> dict[str, Any]:
    """Captured steps in bf16 with 1 and 64 slots."""
    device = open_device(options.device)
    with torch.inference_mode():
        codec = Codec(CodecConfig.parse(CODEC), RandomWeights(), device.torch_device)
    model = load("bf16", device)
    sides: dict[str, Callable[[], Took]] = {}
    for count in (1, 8, 64):
        slots = make_slots(model, device, graphs=device.caps.graphs)
        sides[f"bf16 {count}"] = Ours(slots, SpeechDecoder(codec, device), device, count, options.frames)
    found = measure(sides, options.rounds)
    return {
        "device": device.name,
        "sides": figures(found),
        "goals": {"bf16 1": "30 × real time", "bf16 64": "1,000 audio-seconds per second"},
    }


def measure(sides: Mapping[str, Callable[[], Took]], rounds: int) -> dict[str, list[Took]]:
    """Every side once in each round, and once before that does not count."""
    found: dict[str, list[Took]] = {name: [] for name in sides}
    for number, name in enumerate(in_turns(list(sides), rounds + 1)):
        gc.collect()
        took = sides[name]()
        if number >= len(sides):
            found[name].append(took)
        print(f"{name:8}  {took.frame_s * 1000:7.1f} ms a frame  {asdict(took)}", file=sys.stderr, flush=True)
    return found


def figures(found: Mapping[str, list[Took]]) -> dict[str, dict[str, Any]]:
    """What is printed and kept of each side."""
    return {
        name: {
            "frames_per_s": spread([1 / took.frame_s for took in times]),
            "real_time_factor": spread([took.frame_s / FRAME_S for took in times]),
            "model_ms": spread([1000 * took.model_s for took in times]),
            "codec_ms": spread([1000 * took.codec_s for took in times]),
            "processor_ms": spread([1000 * took.cpu_s for took in times]),
            "prefill_s": spread([took.prefill_s for took in times]),
        }
        for name, times in found.items()
    }


def main() -> None:
    """Measure, print a table, keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", default="1,2", help="of a processor; a run for each")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    before, began = os.getloadavg()[0], time.perf_counter()
    told = on_processor(options) if options.device == "cpu" else on_card(options)
    told["run"] = {
        "rounds": options.rounds, "frames": options.frames, "prompt_rows": PROMPT_ROWS,
        "wait_policy": os.environ["OMP_WAIT_POLICY"], "minutes": round((time.perf_counter() - began) / 60, 1),
        "load_average_before": round(before, 2), "load_average_after": round(os.getloadavg()[0], 2),
        "torch": torch.__version__, "cores": os.cpu_count(),
    }  # fmt: skip
    show(told)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, indent=1) + "\n")


def show(told: Mapping[str, Any]) -> None:
    """The tables."""
    for count, run in told.get("by_threads", {"": told}).items():
        if count:
            print(f"\n{count} thread(s)")
        print_sides(run["sides"], run.get("times_plain", {}), told)
        for name, spent in run.get("layer_us", {}).items():
            print(f"  768 → 3072, 1 row, {name}: {spent['median']:.0f} µs (least {spent['least']:.0f})")
    print()
    for form, values in told.get("logits_beside_fp32", {}).items():
        print(f"logits of {form} beside fp32: {values}")
    run = told["run"]
    print(
        f"load average {run['load_average_before']} before, {run['load_average_after']} after; "
        f"{run['minutes']} minutes"
    )


def print_sides(sides: Mapping[str, Any], times_plain: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """A line for each side: medians, and what was aimed at."""
    goals, real_time = told["goals"], told.get("real_time_goals", {})
    print(
        f"{'side':8} {'frames/s':>9} {'model ms':>9} {'codec ms':>9} {'RTF':>7} {'goal':>5} {'x plain':>8} {'goal':>5}"
    )
    for name, side in sides.items():
        speed, model, codec, factor = (
            side[key]["median"] for key in ("frames_per_s", "model_ms", "codec_ms", "real_time_factor")
        )
        times = times_plain.get(name, {}).get("median", "")
        print(
            f"{name:8} {speed:9.1f} {model:9.2f} {codec:9.2f} {factor:7.3f} {real_time.get(name, '')!s:>5} "
            f"{times!s:>8} {goals.get(name, '')!s:>5}"
        )


if __name__ == "__main__":
    main()
