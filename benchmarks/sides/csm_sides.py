"""CSM for the benchmark of the engine: transformers' `generate` and our engine on the same random weights."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CsmConfig, CsmDepthDecoderConfig, MimiConfig
from transformers.utils import logging

from soundmill.models.bench.generate import csm_codes
from soundmill.models.csm.checkpoint import random_model
from soundmill.models.csm.decoder import Decoder
from soundmill.models.csm.prompt import Prompt
from soundmill.models.csm.sizes import Sizes
from soundmill.models.csm.speaker import Speaker
from soundmill.models.device import Device
from soundmill.models.engine.engine import CardEngine
from soundmill.models.engine.sampling import Sampling
from soundmill.models.handler import Counts
from soundmill.models.place import ModelOptions

logging.disable_progress_bar()

TOKENIZER = Path(__file__).parents[2] / "tests" / "data" / "csm" / "checkpoint"
TEMPERATURE, TOP_K = 0.9, 50
PROMPT_TOKENS = 60


@dataclass(frozen=True)
class Load:
    """Requests, by the number of frames that each makes."""

    frames: Sequence[int]

    @property
    def total(self) -> int:
        return sum(self.frames)


def small_config() -> CsmConfig:
    """Backbone of 8 layers and 512 wide, depth decoder of 4 and 256; 32 codebooks of 2,051 ids."""
    codec = MimiConfig(
        num_filters=4, hidden_size=32, upsampling_ratios=[8, 6, 5, 4], codebook_size=2048, codebook_dim=16,
        vector_quantization_hidden_dimension=16, num_quantizers=32, upsample_groups=32, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=4, head_dim=8, intermediate_size=64,
    )  # fmt: skip
    depth = CsmDepthDecoderConfig(
        num_codebooks=32, backbone_hidden_size=512, vocab_size=2051, hidden_size=256, intermediate_size=1024,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        max_position_embeddings=33,
    )  # fmt: skip
    return CsmConfig(
        num_codebooks=32, vocab_size=2051, text_vocab_size=260, hidden_size=512, intermediate_size=2048,
        num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2, head_dim=64, bos_token_id=256,
        pad_token_id=257, eos_token_id=None, audio_token_id=258, audio_eos_token_id=259,
        codebook_eos_token_id=0, codebook_pad_token_id=2050, codec_config=codec, depth_decoder_config=depth,
    )  # fmt: skip


def save_folder(config: CsmConfig, folder: Path) -> None:
    """Random weights as a checkpoint that a handler loads."""
    random_model(config, "cpu", torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)


def prompt_ids(number: int) -> torch.Tensor:
    """Ids of made-up text, the same for both sides."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (PROMPT_TOKENS,), generator=generator)


class Generate:
    """Transformers' own `generate`, on batches of a fixed size."""

    def __init__(self, model: Any, batch: int) -> None:
        self._model = model
        self._batch = batch

    def run(self, load: Load) -> float:
        """Seconds for a load, batch after batch; a batch runs until its longest row is done."""
        begun = time.perf_counter()
        for start in range(0, len(load.frames), self._batch):
            self.batch(load.frames[start : start + self._batch])
        return time.perf_counter() - begun

    def batch(self, frames: Sequence[int]) -> None:
        """One call."""
        ids = torch.stack([prompt_ids(number) for number in range(len(frames))]).to(self._model.device)
        made = csm_codes(self._model, ids, max(frames))
        if made.shape[1] != max(frames):
            raise SystemExit("generate ended by itself; the weights are not random")


class Ours:
    """Our engine with so many slots; rows make as many frames as they are told."""

    def __init__(
        self, model: Any, device: Device, slots: int, *, fused: bool = True, audio: bool = False, graphs: str = "auto"
    ) -> None:  # fmt: skip
        sizes = Sizes.of(model.config)
        self.speaker = Speaker(model, sizes, device, graphs=device.graphs(graphs), fused=fused)
        decoder = Decoder(model.codec_model, sizes, device) if audio else None
        self.engine = CardEngine(device, ignore_stops=True)
        self.engine.add_slots("csm", self.speaker, options=ModelOptions(slots=slots), decoder=decoder)
        self.engine.open()
        self._sizes = sizes
        self.step_ms: list[float] = []

    def run(self, load: Load) -> float:
        """Seconds for a load: as many requests at once as come, each in a slot as soon as one is free."""
        begun = time.perf_counter()
        requests = [self.ask(number, frames) for number, frames in enumerate(load.frames)]
        done = [request.result(600) for request in requests]
        taken = time.perf_counter() - begun
        if [one.steps for one in done] != list(load.frames):
            raise SystemExit("a row did not make its frames")
        self.step_ms = [float(one.metrics["step_ms"]) for one in done]
        return taken

    def run_in_turn(self, load: Load) -> float:
        """Seconds for a load, one request after the other."""
        begun = time.perf_counter()
        for number, frames in enumerate(load.frames):
            self.ask(number, frames).result(600)
        return time.perf_counter() - begun

    def ask(self, number: int, frames: int) -> Any:
        ids = prompt_ids(number)
        prompt = Prompt(
            text=ids,
            codes=torch.zeros((len(ids), self._sizes.codebooks), dtype=torch.int64),
            audio=torch.zeros(len(ids), dtype=torch.bool),
            sampling=Sampling(temperature=TEMPERATURE, top_k=TOP_K),
            seed=number,
        )
        return self.engine.generate("csm", prompt, positions=len(ids), max_steps=frames)

    def close(self) -> None:
        self.engine.close()


class Handlers:
    """Many threads, each performing whole jobs with the real handler: text, prompt, waiting, audio file."""

    TEXT = "This is a sentence of a book that is read aloud, line by line, by many voices at the same time."

    def __init__(self, folder: Path, slots: int, frames: int) -> None:
        from soundmill.models.csm import Csm
        from soundmill.models.station import Station

        self._station = Station("cpu:0", threads=1)
        self._csm = Csm()
        self._csm.load(self._station.place(ModelOptions(checkpoint=folder, slots=slots)))
        self._station.open()
        self._frames = frames
        self.engine = self._station.engine

    def run(self, threads: int, jobs: int, scratch: Path) -> list[float]:
        """The mean step of each job in milliseconds, of so many jobs for each of so many threads."""
        found: list[float] = []
        errors: list[BaseException] = []
        lock = threading.Lock()

        def perform(number: int) -> None:
            try:
                for job in range(jobs):
                    output = self._perform(number * 1000 + job, scratch / str(number))
                    with lock:
                        found.append(float(output.metrics["step_ms"]))
            except BaseException as error:  # noqa: BLE001 - raised below, in the thread that measures
                errors.append(error)

        workers = [threading.Thread(target=perform, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if errors:
            raise errors[0]
        return found

    def alone(self, slots: int, rounds: int) -> list[float]:
        """The same steps of the same number of rows, with nobody but the engine at work."""
        found = []
        from soundmill.models.csm.handler import NAME

        for _ in range(rounds):
            requests = []
            for number in range(slots):
                ids = prompt_ids(number)
                prompt = Prompt(
                    text=ids, codes=torch.zeros((len(ids), 32), dtype=torch.int64),
                    audio=torch.zeros(len(ids), dtype=torch.bool),
                    sampling=Sampling(temperature=TEMPERATURE, top_k=TOP_K), seed=number,
                )  # fmt: skip
                requests.append(
                    self.engine.generate(NAME, prompt, positions=len(ids), max_steps=self._frames)
                )
            found += [float(request.result(600).metrics["step_ms"]) for request in requests]
        return found

    def _perform(self, seed: int, scratch: Path) -> Any:
        from soundmill.models.csm.handler import Request

        request = Request(
            text=self.TEXT, speaker=0, context=(), temperature=TEMPERATURE, top_k=TOP_K, seed=seed,
            max_frames=self._frames, max_seconds=None, format="flac", sample_rate=24000,
        )  # fmt: skip
        return self._csm.perform(request, _Run(scratch))

    def close(self) -> None:
        self._csm.close()
        self._station.close()


class _Run:
    """A run of nobody's."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch = scratch

    def checkpoint(self, progress: float | None = None, made: Counts | None = None) -> None:
        """Go on."""

    def phase(self, name: str) -> Any:
        from contextlib import nullcontext

        return nullcontext()
