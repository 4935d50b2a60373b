"""The MMS aligner: its trellis beside other ways to the same path, and short files alone and together.

    python benchmarks/align.py                        # on a processor; about ten minutes
    python benchmarks/align.py --part trellis --rounds 1
    python benchmarks/align.py --part card --card cuda:0   # the published size, 16 files of an hour

Trellis: random emissions of 31 classes, for T frames and L letters. Each measurement is a process of its own, on
one thread, the sides in turns; its seconds are those of the processor, which others on the machine hardly
change, and its memory is what the resident size grew by at its peak, from the moment when the emissions are there. All
sides have to find the same path. A side is left out where its pointers do not fit into the memory that is free.

Files: recordings of 1 to 1.25 s of noise with a few words go through the whole handler (reading, romanising, engine,
trellis, alignment.json), one after the other, all at once, and all at once with a window to a call, in turns. The
model is random, narrow and deep: as on a card, a call costs more than what it computes.

Card: the published size with random weights, and 16 files of an hour (a minute with `--minutes 1`) at once. Busy
is the share of the wall time, from the first window to the last result, during which the engine computes.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Instead of this folder, whose `queue.py` would pass for the standard library's.
ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import argparse
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from benchmarks.sides.figures import in_turns, keep, machine, ratios, show, spread

from soundmill.models.device.memory import forget_resident_peak, host_memory, resident, resident_peak

RESULTS = ROOT / "benchmarks" / "results" / "align.json"
SIZES = ((250, 80), (45_000, 7_500), (45_000, 15_000), (180_000, 60_000))
CLASSES = 31
MIB = 2**20
SMALL_REPEATS = 200
COUNTS = (1, 16, 64)
SHORT_S = (1.0, 1.25)
TEXT = "a few short words"
FORMATS = ("json",)
HOUR_LETTERS = 60_000

Path_ = npt.NDArray[np.int64]


# -- trellis ---------------------------------------------------------------------------------------


def _ours(emissions: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    from soundmill.models.trellis import best_path

    return best_path(emissions, labels).states


def _side(name: str) -> Callable[..., npt.NDArray[Any]]:
    from benchmarks.sides import viterbi

    return {"ours": _ours, "full matrix, 2 bits": viterbi.full_matrix, "numpy rows": viterbi.by_rows}[name]


def _pointer_bytes(side: str, frames: int, letters: int) -> int:
    states = 2 * letters + 1
    return {"ours": 0, "full matrix, 2 bits": frames * states // 4, "numpy rows": frames * states}[side]


def measure_side(side: str, frames: int, letters: int) -> dict[str, Any]:
    """In a process of its own: seconds and memory of one search."""
    rng = np.random.default_rng(0)
    run = _side(side)
    run(np.zeros((300, CLASSES), np.float32), np.arange(1, 31, dtype=np.uint8))  # compile
    emissions = np.empty((frames, CLASSES), np.float32)
    for start in range(0, frames, 10_000):
        part = rng.standard_exponential((min(10_000, frames - start), CLASSES)).astype(np.float32)
        emissions[start : start + len(part)] = np.log(part / part.sum(axis=1, keepdims=True))
    labels = rng.integers(1, CLASSES, letters).astype(np.uint8)
    repeats = SMALL_REPEATS if frames < 1_000 else 1
    run(emissions[:300], labels[:80])
    forget_resident_peak()
    before, begun = resident(), time.process_time()
    for _ in range(repeats):
        states = run(emissions, labels)
    seconds = (time.process_time() - begun) / repeats
    return {
        "seconds": seconds,
        "extra_mib": (resident_peak() - before) / MIB,
        "path": hash(np.asarray(states, np.int64).tobytes()),
    }


def trellis(rounds: int, keep_so_far: Callable[[dict[str, Any]], None]) -> None:
    """Each size with each side that fits."""
    figures: dict[str, Any] = {}
    for frames, letters in SIZES:
        free = host_memory()[0]
        sides = [
            side
            for side in ("ours", "full matrix, 2 bits", "numpy rows")
            if 1.4 * _pointer_bytes(side, frames, letters) < free
        ]
        few = 1 if frames > 100_000 else rounds
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for side in in_turns(sides, few):
            found[side].append(_in_a_process(side, frames, letters))
        paths = {run["path"] for runs in found.values() for run in runs}
        assert len(paths) == 1, f"the sides found {len(paths)} different paths"
        figures[f"{frames} / {letters}"] = _trellis_figures(found, sides)
        _show_trellis(frames, letters, figures[f"{frames} / {letters}"])
        keep_so_far(figures)


def _in_a_process(side: str, frames: int, letters: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--size", f"{frames}/{letters}"]
    one_thread = (
        os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {"PYTHONHASHSEED": "0"}
    )
    done = subprocess.run(command, env=one_thread, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _trellis_figures(found: dict[str, list[dict[str, Any]]], sides: Sequence[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    ours = [run["seconds"] for run in found["ours"]]
    for side in sides:
        seconds = [run["seconds"] for run in found[side]]
        figures[side] = {
            "ms": spread([1000 * one for one in seconds]),
            "extra_mib": round(max(run["extra_mib"] for run in found[side]), 1),
            "times_as_long_as_ours": ratios(seconds, ours),
        }
    return figures


def _show_trellis(frames: int, letters: int, figures: dict[str, Any]) -> None:
    print(f"\ntrellis, {frames} frames, {letters} letters", flush=True)
    for side, figure in figures.items():
        print(
            f"  {side:22} {figure['ms']['median']:12.2f} ms   {figure['times_as_long_as_ours']['median']:7.2f} × ours   "
            f"{figure['extra_mib']:8.1f} MiB more"
        )


# -- short files -----------------------------------------------------------------------------------


class Quiet:
    """A run that nobody watches."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch = scratch

    def checkpoint(self, progress: float | None = None, made: Any = None) -> None:
        """Go on."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time nothing."""
        yield


def small_config() -> Any:
    """The tiny model's configuration."""
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(
        vocab_size=31, hidden_size=8, num_hidden_layers=48, num_attention_heads=1, intermediate_size=16,
        conv_dim=[2] * 7, conv_bias=True, feat_extract_norm="layer", do_stable_layer_norm=True,
        num_conv_pos_embedding_groups=4, pad_token_id=0,
    )  # fmt: skip


class Bench:
    """The aligner at work on one card, with the time that its engine computes."""

    def __init__(self, card: str, config: Any) -> None:
        from soundmill.models import trellis
        from soundmill.models.aligner.checkpoint import random_checkpoint
        from soundmill.models.aligner.emission import EmissionModel
        from soundmill.models.aligner.handler import Aligner
        from soundmill.models.aligner.script import Wording, write_script
        from soundmill.models.station import Station

        sys.setswitchinterval(0.0005)  # as in the process of a card
        begun = time.perf_counter()
        self.station = Station(card, threads=1 if card.startswith("cpu") else None)
        self.aligner = Aligner()
        place = self.station.place()
        place.warm(["soundmill.models.aligner.reading", "soundmill.models.aligner.uroman_tables"])
        trellis.compile_loops()
        self.aligner.take(place, random_checkpoint(config))
        self.station.open()
        wording = Wording(language="eng", split="word", star="edges", spell_numbers=False)
        place.offload(write_script, TEXT, wording, {"*": 31})
        self.load_s = time.perf_counter() - begun
        self.calls: list[tuple[float, float]] = []
        self.searches: list[float] = []
        run = EmissionModel.run

        def timed(model: EmissionModel, items: Any, time_budget_s: float) -> None:
            start = time.perf_counter()
            run(model, items, time_budget_s)
            self.calls.append((start, time.perf_counter()))

        EmissionModel.run = timed  # type: ignore[method-assign]
        find = Aligner._find

        def timed_find(aligner: Aligner, *args: Any) -> Any:
            start = time.perf_counter()
            found = find(aligner, *args)
            self.searches.append(time.perf_counter() - start)
            return found

        Aligner._find = timed_find  # type: ignore[method-assign]

    def align(self, audio: Path, text: str, folder: Path) -> dict[str, Any]:
        """Align one file; its metrics."""
        from soundmill.models.aligner.handler import Request

        request = Request(
            text=text, language="eng", audio=audio, split="word", star="edges", numbers="skip", min_score=None,
            doubtful_below=-2.0, outputs=FORMATS,
        )  # fmt: skip
        return dict(self.aligner.perform(request, Quiet(folder)).metrics)

    @contextmanager
    def batching(self, allowed: bool) -> Iterator[None]:
        """Let a call take many windows, or one."""
        from soundmill.models.aligner import emission

        before = emission._buckets
        if not allowed:
            emission._buckets = lambda items, oldest: iter([[oldest]])
        try:
            yield
        finally:
            emission._buckets = before

    def close(self) -> None:
        """End the engine and the helpers."""
        self.aligner.close()
        self.station.close()


def _noise(path: Path, seconds: float, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", 16_000, 1, format="WAV", subtype="PCM_16") as file:
        for _ in range(int(seconds // 60)):
            file.write(rng.normal(0, 0.1, 60 * 16_000))
        file.write(rng.normal(0, 0.1, round(seconds % 60 * 16_000)))
    return path


def short_files(rounds: int) -> dict[str, Any]:
    """Files per second, one by one and together."""
    bench = Bench("cpu:0", small_config())
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="align-") as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        audio = [
            _noise(folder / f"{index}.wav", rng.uniform(*SHORT_S), index) for index in range(max(COUNTS))
        ]
        for count in COUNTS:
            files = audio[:count]
            sides: dict[str, list[float]] = {"one by one": [], "together": [], "together, unbatched": []}
            batches: list[int] = []
            for side in in_turns(list(sides), rounds + 1):
                threads = 1 if side == "one by one" else count
                with bench.batching(side != "together, unbatched"):
                    rate, largest = _rate(bench, files, threads, folder)
                sides[side].append(rate)
                batches.append(largest)
            warm = {side: rates[1:] for side, rates in sides.items()}
            figures[str(count)] = {
                "files_per_s": {side: spread(rates) for side, rates in warm.items()},
                "together_times_one_by_one": ratios(warm["together"], warm["one by one"]),
                "together_times_unbatched": ratios(warm["together"], warm["together, unbatched"]),
                "largest_batch": max(batches),
            }
            show(f"{count} short files, files per second", figures[str(count)]["files_per_s"])
            for ratio in ("together_times_one_by_one", "together_times_unbatched"):
                print(f"  {ratio:32} {figures[str(count)][ratio]['median']:10.2f}")
    bench.close()
    return figures


def _rate(bench: Bench, files: Sequence[Path], threads: int, folder: Path) -> tuple[float, int]:
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(bench.align, file, TEXT, folder / f"out-{file.stem}") for file in files]
        metrics = [job.result() for job in jobs]
    return len(files) / (time.perf_counter() - begun), max(int(one["batch_size"]) for one in metrics)


# -- a card ----------------------------------------------------------------------------------------


def card_at_work(card: str, files: int, minutes: float) -> dict[str, Any]:
    """Hours of audio with the published size, and how busy the card is meanwhile."""
    from soundmill.models.aligner.published import published_config

    bench = Bench(card, published_config())
    with tempfile.TemporaryDirectory(prefix="align-") as name:
        folder = Path(name)
        audio = [_noise(folder / f"{index}.wav", 60 * minutes, index) for index in range(files)]
        rng = np.random.default_rng(0)
        words = [
            "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 5))
            for _ in range(round(minutes / 60 * HOUR_LETTERS / 5))
        ]
        text = " ".join(words)
        bench.align(_noise(folder / "warm.wav", 60, 99), "a few words", folder / "warm")
        bench.calls.clear()
        bench.searches.clear()
        begun = time.perf_counter()
        with ThreadPoolExecutor(files) as pool:
            jobs = [pool.submit(bench.align, one, text, folder / f"out-{one.stem}") for one in audio]
            metrics = [job.result() for job in jobs]
        ended = time.perf_counter()
    busy_s = sum(end - start for start, end in bench.calls)
    first, last = bench.calls[0][0], bench.calls[-1][1]
    figures = {
        "card": bench.station.engine.device.name,
        "files": files,
        "minutes_each": minutes,
        "letters_each": len(text) - text.count(" "),
        "load_s": round(bench.load_s, 2),
        "wall_s": round(ended - begun, 2),
        "emission_s": round(busy_s, 2),
        "emission_ms_a_call": round(1000 * busy_s / len(bench.calls), 2),
        "alignment_s_each": spread(bench.searches),
        "busy_from_first_window_to_last_result": round(busy_s / (ended - first), 4),
        "busy_from_first_window_to_last": round(busy_s / (last - first), 4),
        "audio_s_per_s": round(60 * minutes * files / (ended - begun), 1),
        "largest_batch": max(int(one["batch_size"]) for one in metrics),
        "peak_gib": round(bench.station.engine.device.peak() / 2**30, 2),
        "threads": threading.active_count(),
    }
    for key, value in figures.items():
        print(f"  {key:40} {value}", flush=True)
    bench.close()
    return figures


def main() -> None:
    """Run what is asked for, and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("trellis", "files", "card"), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--card", default="auto")
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        frames, letters = map(int, options.size.split("/"))
        print(json.dumps(measure_side(options.side, frames, letters)))
        return
    parts = options.part or ["trellis", "files"]
    figures = json.loads(options.json.read_text()) if options.json.exists() else {}

    def keep_part(part: str, found: dict[str, Any]) -> None:
        figures.update({part: {"machine": machine(), **found}})
        keep(options.json, figures)

    if "files" in parts:
        keep_part("files", short_files(options.rounds))
    if "trellis" in parts:
        trellis(options.rounds, lambda found: keep_part("trellis", found))
    if "card" in parts:
        keep_part("card", card_at_work(options.card, options.files, options.minutes))


if __name__ == "__main__":
    main()
