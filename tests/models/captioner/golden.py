"""The tiny captioner and what the published code makes with it; see `tests/data/captioner/README.md`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from soundmill.models.captioner.prompt import TASKS, Speller
from soundmill.models.captioner.rows import Prompt
from soundmill.models.captioner.shape import Shape, read_shape
from soundmill.models.captioner.weights import Weights, read_weights
from soundmill.models.device import Device
from soundmill.models.engine.sampling import GREEDY, Sampling

from ..slot_contract import Case

FOLDER = Path(__file__).resolve().parents[2] / "data" / "captioner"
SYSTEM = "You are a helpful assistant."
MAX_NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One clip: its samples [S] at 16 kHz, and what was heard, asked and said."""

    name: str
    task: str
    samples: npt.NDArray[np.float32]
    input_ids: list[int]
    embeddings: torch.Tensor
    first_logits: torch.Tensor
    new_ids: list[int]
    text: str
    chat: str

    def said(self, stops: set[int]) -> list[int]:
        """The new ids without the one that ended them."""
        return [token for token in self.new_ids if token not in stops]

    def prompt(self, *, sampling: Sampling = GREEDY, seed: int = 0) -> Prompt:
        """The prompt of the published code."""
        ids = torch.tensor(self.input_ids)
        audio_at = int((ids == shape().audio_id).nonzero()[0])
        return Prompt(ids=ids, audio=self.embeddings, audio_at=audio_at, sampling=sampling, seed=seed)

    def case(self, *, max_steps: int = MAX_NEW_TOKENS, sampling: Sampling = GREEDY, seed: int = 0) -> Case:
        """A request for a row."""
        prompt = self.prompt(sampling=sampling, seed=seed)
        return Case(prompt=prompt, positions=len(prompt.ids), max_steps=max_steps)


@cache
def goldens() -> tuple[Golden, ...]:
    arrays = np.load(FOLDER / "golden.npz")
    cases = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))["cases"]
    by_words = {words: task for task, words in TASKS.items()}
    return tuple(
        Golden(
            name=case["case"],
            task=by_words[case["prompt"]],
            samples=arrays[f"{case['case']}_wav_int16"].astype(np.float32) / 32768,
            input_ids=arrays[f"{case['case']}_input_ids"].tolist(),
            embeddings=torch.from_numpy(arrays[f"{case['case']}_audio_embeds"]),
            first_logits=torch.from_numpy(arrays[f"{case['case']}_first_logits"]),
            new_ids=arrays[f"{case['case']}_new_ids"].tolist(),
            text=case["text"],
            chat=case["chat"],
        )
        for case in cases
    )


def golden_mel() -> torch.Tensor:
    """The published log-mel spectrum of the second clip, [bands, F]."""
    return torch.from_numpy(np.load(FOLDER / "golden.npz")["a1_mel"])


@cache
def shape() -> Shape:
    return read_shape(FOLDER)


@cache
def speller() -> Speller:
    return Speller(FOLDER, shape())


def weights_on(device: Device, dtype: torch.dtype = torch.float32) -> Weights:
    return read_weights(FOLDER, shape(), device.torch_device, dtype)
