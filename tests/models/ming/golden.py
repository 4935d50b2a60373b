"""The tiny checkpoint, the vectors of the published program, and cases ready for a slot model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from soundmill.models.ming.network import MingNetwork
from soundmill.models.ming.prompt import PromptIds, PromptWriter
from soundmill.models.ming.rows import MingPrompt
from soundmill.models.ming.tokenizer import MingTokenizer

DATA = Path(__file__).resolve().parent.parent.parent / "data" / "ming"
CHECKPOINT = DATA / "checkpoint"
MODULE = {"atol": 2e-5, "rtol": 1e-4}
LOOP = {"atol": 1e-4, "rtol": 1e-4}
"""The tolerances of the vectors: of single modules, and of whole loops and waveforms."""

MAX_PATCHES = 9


@cache
def vectors(name: str) -> dict[str, Tensor]:
    return dict(load_file(DATA / "vectors" / f"{name}.safetensors"))


@cache
def cases() -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((DATA / "vectors" / "cases.json").read_text(encoding="utf-8"))
    return content


def case_vectors(index: int) -> dict[str, Tensor]:
    return vectors(cases()[index]["file"].removesuffix(".safetensors"))


@cache
def network() -> MingNetwork:
    return MingNetwork.load(CHECKPOINT, dtype=torch.float32, device="cpu")


@cache
def writer() -> PromptWriter:
    return PromptWriter(MingTokenizer(CHECKPOINT))


def prompt_ids(case: dict[str, Any]) -> PromptIds:
    return writer().write(
        case["prompt"],
        case["text"],
        speakers=case["n_speakers"],
        transcript=case["prompt_text"] if case["has_prompt_audio"] else None,
        patches=case["n_prompt_patches"],
        entries=case["instruction"],
    )


def prompt(index: int, **changes: Any) -> MingPrompt:
    """The prompt of a case; its seed is its index, which `recorded_noise` understands."""
    case, tensors = cases()[index], case_vectors(index)
    ids = prompt_ids(case)
    given: dict[str, Any] = {
        "ids": ids.ids,
        "guidance": case["cfg"],
        "sigma": case["sigma"],
        "temperature": case["temperature"],
        "seed": index,
        "max_patches": MAX_PATCHES,
        "speakers": None if case["use_zero_spk_emb"] else tensors.get("spk_emb"),
        "speaker_places": ids.speakers,
        "latents": tensors["prompt_latent"][0] if "prompt_latent" in tensors else None,
        "patch_places": ids.patches,
    }
    return MingPrompt(**(given | changes))


def recorded_noise(seed: int, first: int, steps: int, width: int) -> Any:
    """What the published program drew in the case `seed`; zeros where it drew nothing."""
    tensors = case_vectors(seed)
    noise = np.zeros((steps, width), np.float32)
    recorded = tensors["init_noise"]
    for row, step in enumerate(range(first, min(first + steps, len(recorded)))):
        initial = recorded[step, 0].T.reshape(-1).numpy()
        noise[row, : len(initial)] = initial
        if "step_noise" in tensors and width > len(initial):
            between = tensors["step_noise"][step, :-1, 0].reshape(-1).numpy()
            noise[row, len(initial) :] = between[: width - len(initial)]
    return noise


def close(found: Tensor, expected: Tensor, tolerance: dict[str, float]) -> None:
    torch.testing.assert_close(found, expected, **tolerance)
