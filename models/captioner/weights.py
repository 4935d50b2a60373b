"""The weights of a captioner on its card, and the account of what they take and what was left out."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint, Skipped
from .hearing import AudioTower
from .language import LanguageModel
from .shape import Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a captioner holds for all its slots.

    Attributes:
        language_bytes: What the language model takes on the card.
        tower_bytes: What the audio tower takes.
        skipped: The parts of the folder that were never read.
    """

    language: LanguageModel
    tower: AudioTower
    language_bytes: int
    tower_bytes: int
    skipped: tuple[Skipped, ...]


def read_weights(folder: Path, shape: Shape, device: torch.device, dtype: torch.dtype) -> Weights:
    """Read the parts of a full published folder that hear and write. To be called on the engine's thread.

    Raises:
        ModelUnavailable: The folder is incomplete or damaged; the message says what to do.
    """
    with Checkpoint(folder) as checkpoint:
        language = LanguageModel(shape.text, device, dtype)
        language.read(checkpoint)
        tower = AudioTower(shape.audio, device, dtype)
        tower.read(checkpoint)
        skipped = tuple(checkpoint.skipped())
    weights = _weighed(language, tower, skipped)
    _report(weights, dtype)
    return weights


def random_weights(shape: Shape, device: torch.device | str, dtype: torch.dtype, seed: int = 0) -> Weights:
    """A model of a size with random weights, for measurements: speed does not depend on their values."""
    import torch

    language, tower = LanguageModel(shape.text, device, dtype), AudioTower(shape.audio, device, dtype)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        for tensor in (*language.tensors(), *tower.tensors()):
            tensor.normal_(std=0.02)
    return _weighed(language, tower, ())


def parameters(shape: Shape) -> int:
    """How many numbers a model of a size holds; none is made."""
    import torch

    parts = LanguageModel(shape.text, "meta", torch.float32), AudioTower(shape.audio, "meta", torch.float32)
    return sum(tensor.numel() for part in parts for tensor in part.tensors())


def _weighed(language: LanguageModel, tower: AudioTower, skipped: tuple[Skipped, ...]) -> Weights:
    return Weights(
        language=language,
        tower=tower,
        language_bytes=_bytes(language.tensors()),
        tower_bytes=_bytes(tower.tensors()),
        skipped=skipped,
    )


def _report(weights: Weights, dtype: torch.dtype) -> None:
    logger.info(
        "the captioner's weights are loaded",
        extra={
            "dtype": str(dtype).removeprefix("torch."),
            "language_model_bytes": weights.language_bytes,
            "audio_tower_bytes": weights.tower_bytes,
            "skipped": {
                part.part: {"tensors": part.tensors, "bytes": part.bytes} for part in weights.skipped
            },
        },
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
