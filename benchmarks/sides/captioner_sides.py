"""The sides of the captioner's benchmark: our engine, and `generate` of transformers, on the same folder.

Both start from spectra; `generate` gets them at their real length, not padded to 300 s as its processor would,
in one left-padded batch.
"""

from __future__ import annotations

import json
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundmill.models.bench.bandwidth import copy_speed
from soundmill.models.captioner.handler import EARS, SHORT, SHORT_CONTEXT
from soundmill.models.captioner.language import LanguageModel
from soundmill.models.captioner.listener import Listener
from soundmill.models.captioner.prompt import Speller
from soundmill.models.captioner.published import SHAPE
from soundmill.models.captioner.rows import CaptionRows, Prompt, Readout
from soundmill.models.captioner.shape import read_shape
from soundmill.models.captioner.spectrum import FRAMES_PER_S, SAMPLE_RATE_HZ, log_mel
from soundmill.models.captioner.weights import random_weights, read_weights
from soundmill.models.device import Device, open_device
from soundmill.models.engine.engine import CardEngine
from soundmill.models.engine.sampling import GREEDY
from soundmill.models.place import ModelOptions

TINY = Path(__file__).resolve().parent.parent.parent / "tests" / "data" / "captioner"
# The tests' tokenizer knows bytes only: these make about as many tokens as the published words do with its own.
SYSTEM, ASKED = "Listen.", "Describe it."
# To a processor a position of a prompt costs a tenth of a step, to a card a hundredth: so clips are short here.
SECONDS = (2.0, 12.0, 5.5, 9.0, 8.0, 10.0, 3.3, 7.0)
TOKENS = (96, 150, 64, 128, 80, 140, 48, 110)
WAIT_S = 600.0

# The widths of the tests' tiny model, but deeper. As on a card, a step of so small a model costs what its calls
# cost, and little more for eight rows.
SMALL_TEXT = {"num_hidden_layers": 8, "vocab_size": 1024}
SMALL_AUDIO = {"encoder_layers": 4}

LENGTHS = 3  # captured lengths of the caches: 512, 1,024 and all
WORDS_OF_A_PROMPT = 30  # around the audio, with the published tokenizer


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of a side: spectra [bands, F] of clips, and how many tokens each shall get."""

    mels: tuple[torch.Tensor, ...]
    tokens: tuple[int, ...]

    @classmethod
    def mixed(cls) -> Load:
        """Eight clips of the lengths of songs' parts, with captions of usual lengths."""
        rng = np.random.default_rng(0)
        return cls(mels=tuple(_noise(rng, seconds) for seconds in SECONDS), tokens=TOKENS)

    def clips(self) -> list[Load]:
        """Each clip by itself."""
        return [Load(mels=(mel,), tokens=(some,)) for mel, some in zip(self.mels, self.tokens, strict=True)]

    def __str__(self) -> str:
        seconds = ", ".join(f"{mel.shape[1] / FRAMES_PER_S:g}" for mel in self.mels)
        return f"clips of {seconds} s with {', '.join(map(str, self.tokens))} forced tokens, greedy"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One run of a side.

    Attributes:
        ids: Of each clip.
        seconds: How long it took.
        first_s: The median time to a first token, from when the clip's turn came.
        waited_s: The same from the begin of the run.
    """

    ids: list[list[int]]
    seconds: float
    first_s: float
    waited_s: float

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))


def small_checkpoint(folder: Path) -> None:
    """Write a small model of random weights in the published layout."""
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration
    from transformers.utils import logging

    config = json.loads((TINY / "config.json").read_text())
    thinker = config["thinker_config"]
    thinker["text_config"] |= SMALL_TEXT
    del thinker["text_config"]["layer_types"]  # one for each layer; all alike by default
    thinker["audio_config"] |= SMALL_AUDIO
    config["enable_audio_output"] = False
    torch.manual_seed(0)
    logging.set_verbosity_error()  # about ids of towers that nobody uses
    logging.disable_progress_bar()
    model = Qwen2_5OmniForConditionalGeneration(Qwen2_5OmniConfig(**config))
    model.generation_config._from_model_config = False
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TINY / name, folder)


def in_turn(run: Callable[[Load], Seen], load: Load) -> Seen:
    """One clip after the other; each waits for those before it."""
    runs = [run(clip) for clip in load.clips()]
    waited = [sum(one.seconds for one in runs[:place]) + one.first_s for place, one in enumerate(runs)]
    return Seen(
        ids=[one.ids[0] for one in runs],
        seconds=sum(one.seconds for one in runs),
        first_s=statistics.median(one.first_s for one in runs),
        waited_s=statistics.median(waited),
    )


class Ours:
    """The engine as a worker has it, in this process."""

    def __init__(self, folder: Path, threads: int) -> None:
        device = open_device("cpu", threads=threads)
        self._shape = read_shape(folder)
        self._speller = Speller(folder, self._shape)
        self._engine = CardEngine(device, ignore_stops=True)
        weights = self._engine.call(
            lambda: read_weights(folder, self._shape, device.torch_device, torch.float32)
        ).result()
        rows = CaptionRows(weights.language, device, context=SHORT_CONTEXT, stops=self._speller.stops)
        self._engine.add_batch(EARS, Listener(weights.tower))
        self._engine.add_slots(SHORT, rows, options=ModelOptions(slots=8), decoder=Readout())
        self._engine.open()

    def run(self, load: Load) -> Seen:
        """Ask for all clips at once."""
        words = self._speller.wording(ASKED, SYSTEM)
        begun = time.monotonic()

        def ask(mel: torch.Tensor, tokens: int) -> tuple[list[int], float]:
            heard = self._engine.process(EARS, mel).result(WAIT_S)
            ids = torch.tensor([*words.before, *[self._shape.audio_id] * len(heard), *words.behind])
            prompt = Prompt(ids=ids, audio=heard, audio_at=len(words.before), sampling=GREEDY, seed=0)
            asked = time.monotonic()
            made = self._engine.generate(SHORT, prompt, positions=len(ids), max_steps=tokens).result(WAIT_S)
            return made.value, asked - begun + float(made.metrics["first_step_s"])

        with ThreadPoolExecutor(len(load.mels)) as pool:
            found = list(pool.map(ask, load.mels, load.tokens))
        seconds = time.monotonic() - begun
        first_s = statistics.median(first for _, first in found)
        return Seen(ids=[ids for ids, _ in found], seconds=seconds, first_s=first_s, waited_s=first_s)

    def close(self) -> None:
        self._engine.close()


class Generate:
    """transformers' thinker and its `generate`."""

    def __init__(self, folder: Path) -> None:
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        self._model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        self._shape = read_shape(folder)
        self._speller = Speller(folder, self._shape)
        parts = (self._model.model.language_model, self._model.model.audio_tower, self._model.lm_head)
        self.parameters = sum(weight.numel() for part in parts for weight in part.parameters())

    def run(self, load: Load) -> Seen:
        """All clips in one left-padded batch."""
        inputs, longest = self._inputs(load.mels)
        watch = _FirstToken()
        begun = time.monotonic()
        most = max(load.tokens)  # the batch runs until its longest row is done
        with torch.inference_mode():
            made = self._model.generate(
                **inputs, do_sample=False, min_new_tokens=most, max_new_tokens=most, eos_token_id=None,
                stopping_criteria=[watch],
            )  # fmt: skip
        seconds = time.monotonic() - begun
        wanted = [row[longest : longest + some].tolist() for row, some in zip(made, load.tokens, strict=True)]
        return Seen(ids=wanted, seconds=seconds, first_s=watch.at - begun, waited_s=watch.at - begun)

    def _inputs(self, mels: Sequence[torch.Tensor]) -> tuple[dict[str, torch.Tensor], int]:
        words = self._speller.wording(ASKED, SYSTEM)
        audio = [((mel.shape[1] - 1) // 2 + 1 - 2) // 2 + 1 for mel in mels]
        prompts = [[*words.before, *[self._shape.audio_id] * count, *words.behind] for count in audio]
        longest, frames = max(map(len, prompts)), max(mel.shape[1] for mel in mels)
        pad = [longest - len(prompt) for prompt in prompts]
        return {
            "input_ids": torch.tensor(
                [[0] * some + prompt for some, prompt in zip(pad, prompts, strict=True)]
            ),
            "attention_mask": torch.tensor([[0] * some + [1] * (longest - some) for some in pad]),
            "input_features": torch.stack(
                [torch.nn.functional.pad(m, (0, frames - m.shape[1])) for m in mels]
            ),
            "feature_attention_mask": torch.tensor(
                [[1] * mel.shape[1] + [0] * (frames - mel.shape[1]) for mel in mels]
            ),
        }, longest


class _FirstToken:
    """A stopping criterion that never stops, and notes when it was asked first."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self.at = self.at or time.monotonic()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)


def published(card: str, concurrencies: Sequence[int], *, tokens: int) -> Iterator[dict[str, Any]]:
    """Measure the published size with random weights on a card, a line for each number of requests at once.

    Requests are clips of 30 s, from their spectra on, in a closed loop. TPOT is the time of a token after
    the first. The floor is the time in which the card reads the weights once, at the speed of a copy.
    """
    device = open_device(card)
    dtype, graphs = device.dtype("auto"), device.graphs("auto")
    engine = CardEngine(device, ignore_stops=True)
    weights = engine.call(lambda: random_weights(SHAPE, device.torch_device, dtype)).result()
    language, tower = weights.language, weights.tower
    rows = engine.call(
        lambda: CaptionRows(language, device, context=SHORT_CONTEXT, stops=(151645,),
                            graphs=graphs, lengths=LENGTHS)
    ).result()  # fmt: skip
    engine.add_batch(EARS, Listener(tower))
    most = max(concurrencies)
    engine.add_slots(SHORT, rows, options=ModelOptions(slots=most), decoder=Readout())
    engine.open()
    floor_s = engine.call(lambda: _floor_s(device, language)).result()
    mel = torch.from_numpy(log_mel(np.random.default_rng(0).normal(0, 0.1, 30 * SAMPLE_RATE_HZ).astype("f4")))
    print(f"{device.name}, {dtype}, graphs {graphs}: clips of 30 s from their spectra on, {tokens} forced tokens, "
          f"{rows.bytes_per_slot / 2**20:.0f} MiB a slot; floor {1000 * floor_s:.2f} ms a step", flush=True)  # fmt: skip
    _closed_loop(engine, mel, most, 2 * most, tokens)  # as many as later: kernels and graphs are made now
    for count in concurrencies:
        yield _line(count, *_closed_loop(engine, mel, count, max(8, 4 * count), tokens), floor_s)
    engine.close()


def _closed_loop(
    engine: CardEngine, mel: torch.Tensor, concurrency: int, requests: int, tokens: int
) -> tuple[list[dict[str, float]], float]:
    """Keep `concurrency` requests running until `requests` are done; return their figures and the time."""
    lock, left, done = threading.Lock(), list(range(requests)), []

    def client() -> None:
        while True:
            with lock:
                if not left:
                    return
                left.pop()
            begun = time.monotonic()
            heard = engine.process(EARS, mel).result(WAIT_S)
            ids = torch.zeros(len(heard) + WORDS_OF_A_PROMPT, dtype=torch.int64)
            prompt = Prompt(ids=ids, audio=heard, audio_at=20, sampling=GREEDY, seed=0)
            asked = time.monotonic()
            made = engine.generate(SHORT, prompt, positions=len(ids), max_steps=tokens).result(WAIT_S)
            first_s = asked - begun + float(made.metrics["first_step_s"])
            assert len(made.value) == tokens
            done.append({"first_s": first_s, "all_s": time.monotonic() - begun, "prompt": float(len(ids)),
                         "step_ms": float(made.metrics["step_ms"])})  # fmt: skip

    begun = time.monotonic()
    clients = [threading.Thread(target=client) for _ in range(concurrency)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return [{**one, "tokens": float(tokens)} for one in done], time.monotonic() - begun


def _line(
    concurrency: int, done: Sequence[dict[str, float]], seconds: float, floor_s: float
) -> dict[str, Any]:
    firsts = sorted(1000 * one["first_s"] for one in done)
    made = sum(one["tokens"] for one in done)
    tpot_s = statistics.median((one["all_s"] - one["first_s"]) / (one["tokens"] - 1) for one in done)
    step_ms = statistics.median(one["step_ms"] for one in done)
    return {
        "concurrency": concurrency,
        "requests": len(done),
        "requests_per_s": len(done) / seconds,
        "output_tokens_per_s": made / seconds,
        "total_tokens_per_s": (made + sum(one["prompt"] for one in done)) / seconds,
        "first_p50_ms": statistics.median(firsts),
        "first_p99_ms": firsts[min(len(firsts) - 1, int(0.99 * len(firsts)))],
        "tpot_ms": 1000 * tpot_s,
        "step_ms": step_ms,
        "floors": step_ms / (1000 * floor_s),
    }


def _floor_s(device: Device, language: LanguageModel) -> float:
    """The time in which the weights of a step are read once, at the speed of a copy."""
    size = sum(tensor.numel() * tensor.itemsize for tensor in language.tensors())
    size -= language.embedding.numel() * language.embedding.itemsize
    return size / copy_speed(device)


def _noise(rng: np.random.Generator, seconds: float) -> torch.Tensor:
    sound = rng.normal(0, 0.1, round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
    return torch.from_numpy(log_mel(sound))
