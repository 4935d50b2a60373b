"""What the tests of MOSS share: the tiny checkpoint, converted and loaded once, and the vectors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from soundmill.models.conversion import convert
from soundmill.models.device import Device, open_device
from soundmill.models.moss.codec import Codec
from soundmill.models.moss.config import CodecConfig, LanguageConfig
from soundmill.models.moss.language_model import LanguageModel
from soundmill.models.moss.prompt import Template
from soundmill.models.moss.tokenizer import Tokenizer
from soundmill.models.moss.weights import Weights

DATA = Path(__file__).resolve().parents[2] / "data" / "moss"
VECTORS = DATA / "vectors"

Vectors = Mapping[str, torch.Tensor]


def vectors(name: str) -> Vectors:
    found: Vectors = load_file(VECTORS / f"{name}.safetensors")
    return found


def told(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language model with its weights converted, the codec beside it."""
    root = tmp_path_factory.mktemp("moss")
    shutil.copytree(DATA / "codec", root / "codec")
    shutil.copytree(DATA / "tts", root / "tts")
    convert(root / "tts")
    (root / "tts" / "pytorch_model.bin").unlink()
    return root / "tts"


@pytest.fixture(scope="session")
def device() -> Device:
    return open_device("cpu", threads=1)


@pytest.fixture(scope="session")
def config(folder: Path) -> LanguageConfig:
    return LanguageConfig.read(folder)


def load_model(folder: Path, *, positions: int = 512, **options: Any) -> LanguageModel:
    with torch.inference_mode():
        return LanguageModel(
            LanguageConfig.read(folder),
            Weights(folder),
            device=torch.device("cpu"),
            dtype=options.pop("dtype", torch.float32),
            positions=positions,
            **options,
        )


@pytest.fixture(scope="session")
def model(folder: Path) -> LanguageModel:
    return load_model(folder)


@pytest.fixture(scope="session")
def codec(folder: Path) -> Codec:
    where = folder.parent / "codec"
    with torch.inference_mode():
        return Codec(CodecConfig.read(where), Weights(where), torch.device("cpu"))


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder / "tokenizer.model")


@pytest.fixture(scope="session")
def template(config: LanguageConfig, tokenizer: Tokenizer) -> Template:
    return Template.of(config, tokenizer)
