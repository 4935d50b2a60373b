from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from soundmill.models.aligner.checkpoint import load_checkpoint
from soundmill.models.aligner.emission import EmissionModel
from soundmill.models.device import Device
from soundmill.models.errors import ModelUnavailable

from .emitting import emissions_of
from .golden import recording


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_letters_are_those_of_the_vocabulary_and_a_star(folder: Path) -> None:
    letters = load_checkpoint(folder).letters
    assert "".join(sorted(letters)) == "'*abcdefghijklmnopqrstuvwxyz"
    assert (letters["a"], letters["x"], letters["*"]) == (4, 30, 31)


def test_weights_with_the_older_names_of_the_positional_convolution_are_the_same(
    folder: Path, device: Device
) -> None:
    """The published file was written before torch named them as it does now."""
    sound = recording("em0")
    expected = emissions_of(EmissionModel(load_checkpoint(folder), device), sound)
    weights = load_file(folder / "model.safetensors")
    prefix = "wav2vec2.encoder.pos_conv_embed.conv."
    for old, new in (
        ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"),
    ):
        weights[prefix + old] = weights.pop(prefix + new)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert np.array_equal(emissions_of(EmissionModel(load_checkpoint(folder), device), sound), expected)


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "model.safetensors"])
def test_what_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelUnavailable, match=rf"has no {name}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "whisper"}, "a model of the kind 'whisper'"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "each 160; the aligner's are of 400 each 320"),
        ({"feat_extract_norm": "group"}, "normalises over time"),
        ({"hidden_size": 64}, "do not fit config.json"),
        ({"vocab_size": 20}, "no Latin letters among the classes"),
    ],
)
def test_another_model_is_refused(folder: Path, fields: dict[str, Any], words: str) -> None:
    change(folder / "config.json", **fields)
    with pytest.raises(ModelUnavailable, match=words):
        load_checkpoint(folder)


def test_another_sample_rate_is_refused(folder: Path) -> None:
    change(folder / "preprocessor_config.json", sampling_rate=8000)
    with pytest.raises(ModelUnavailable, match="hears 8000 Hz"):
        load_checkpoint(folder)


def test_another_blank_is_refused(folder: Path) -> None:
    change(folder / "vocab.json", **{"<blank>": 1, "<pad>": 0})
    with pytest.raises(ModelUnavailable, match="<blank> as its number 0"):
        load_checkpoint(folder)


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelUnavailable, match=r"config\.json cannot be read"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelUnavailable, match="holds no JSON object"):
        load_checkpoint(folder)
