"""The weights of the aligner in their published layout: a Wav2Vec2 encoder with a CTC head, and its letters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from ..errors import ModelUnavailable
from ..trellis import BLANK
from .romanization import LETTERS
from .script import STAR
from .windows import HOP, RECEPTIVE, SAMPLE_RATE_HZ

_BLANK_NAME = "<blank>"
TRAINING_ONLY = frozenset({"wav2vec2.masked_spec_embed"})
RENAMED = (
    (".conv.weight_g", ".conv.parametrizations.weight.original0"),
    (".conv.weight_v", ".conv.parametrizations.weight.original1"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A loaded model, on the host.

    Attributes:
        model: In fp32, for inference.
        letters: The ids of the letters, and of the `STAR`, which is the id behind the model's classes.
    """

    model: nn.Module
    letters: Mapping[str, int]


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder with `config.json`, `vocab.json` and `model.safetensors`.

    Raises:
        ModelUnavailable: Something is missing, or does not fit together; the message says what.
    """
    config = read_config(folder)
    letters = read_letters(folder, config.vocab_size)
    model = empty_model(config)
    weights = _weights(folder, model)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelUnavailable(f"the weights in {folder} do not fit config.json: {reason}") from error
    return Checkpoint(model=_frozen(model), letters=letters)


def empty_model(config: Wav2Vec2Config) -> Any:
    """A model of a size without weights: none are made up that are then thrown away."""
    with torch.device("meta"):
        return Wav2Vec2ForCTC._from_config(config, attn_implementation="sdpa")


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights.

    Raises:
        ModelUnavailable: There are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelUnavailable(
            f"{folder} has no model.safetensors; other formats of weights can run code when they are read, "
            "so they are not loaded"
        )
    return files


def _weights(folder: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        try:
            found |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise ModelUnavailable(f"{file} cannot be read: {error}") from error
    weights = {present_name(name): weight.float() for name, weight in found.items()}
    for name, weight in model.state_dict().items():
        if name in TRAINING_ONLY:
            weights.setdefault(name, torch.zeros(weight.shape))
    return weights


def present_name(name: str) -> str:
    """Files older than torch's parametrizations name the two parts of a normalised weight in another way."""
    for old, new in RENAMED:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def random_checkpoint(config: Wav2Vec2Config, seed: int = 0) -> Checkpoint:
    """A model of a size with random weights, for measurements: speed does not depend on their values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Wav2Vec2ForCTC._from_config(config, attn_implementation="sdpa")
    alphabet = sorted(LETTERS)[: config.vocab_size - 4]
    letters = {letter: index + 4 for index, letter in enumerate(alphabet)}
    return Checkpoint(model=_frozen(model), letters={**letters, STAR: config.vocab_size})


def parameters(config: Wav2Vec2Config) -> int:
    """How many numbers a model of a size holds; none is made."""
    return sum(weight.numel() for weight in empty_model(config).parameters())


def _frozen(model: Any) -> nn.Module:
    """For inference only, with the weights of the positional convolution multiplied out once, not at each call."""
    model.eval().requires_grad_(False)
    convolution = model.wav2vec2.encoder.pos_conv_embed.conv
    if parametrize.is_parametrized(convolution):
        parametrize.remove_parametrizations(convolution, "weight")
    frozen: nn.Module = model
    return frozen


def read_config(folder: Path) -> Wav2Vec2Config:
    """The configuration of a folder.

    Raises:
        ModelUnavailable: It is missing, damaged, of another model, or of a form that is not built.
    """
    fields = _json(folder, "config.json")
    if fields.get("model_type") != "wav2vec2":
        raise ModelUnavailable(
            f"{folder} holds a model of the kind {fields.get('model_type')!r}; the aligner is a wav2vec2 with a CTC head"
        )
    config = Wav2Vec2Config.from_dict(fields)
    hop = math.prod(config.conv_stride)
    receptive, stride = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        receptive += (kernel - 1) * stride
        stride *= step
    if (hop, receptive) != (HOP, RECEPTIVE):
        raise ModelUnavailable(
            f"the model in {folder} makes a frame of {receptive} samples each {hop}; the aligner's are of "
            f"{RECEPTIVE} each {HOP}"
        )
    if config.feat_extract_norm != "layer" or config.add_adapter:  # padding would be heard
        raise ModelUnavailable(
            f"the model in {folder} normalises over time or has an adapter, so its windows cannot be batched"
        )
    if (folder / "preprocessor_config.json").exists():
        rate = _json(folder, "preprocessor_config.json").get("sampling_rate", SAMPLE_RATE_HZ)
        if rate != SAMPLE_RATE_HZ:
            raise ModelUnavailable(
                f"the model in {folder} hears {rate} Hz; the aligner's hears {SAMPLE_RATE_HZ} Hz"
            )
    return config


def read_letters(folder: Path, classes: int) -> dict[str, int]:
    """The ids of the letters in a folder's vocabulary, and of the `STAR`.

    Raises:
        ModelUnavailable: It is missing, or not that of an aligner with so many classes.
    """
    vocabulary = _json(folder, "vocab.json")
    if vocabulary.get(_BLANK_NAME) != BLANK:
        raise ModelUnavailable(f"vocab.json does not have {_BLANK_NAME} as its number {BLANK}")
    letters = {letter: number for letter, number in vocabulary.items() if letter in LETTERS}
    if not letters or max(letters.values()) >= classes:
        raise ModelUnavailable("vocab.json has no Latin letters among the classes of the model")
    return {**letters, STAR: classes}


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelUnavailable(
            f"{folder} has no {name}; it has to be the whole folder as it is published"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{folder / name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{folder / name} holds no JSON object")
    return content
