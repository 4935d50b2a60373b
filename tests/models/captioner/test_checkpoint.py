"""What is read of a published folder, what is not, and what is said of a folder that cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from soundmill.models.captioner.checkpoint import INDEX, SINGLE
from soundmill.models.captioner.prompt import Speller
from soundmill.models.captioner.shape import read_shape
from soundmill.models.captioner.weights import Weights, read_weights
from soundmill.models.errors import ModelUnavailable

from .golden import FOLDER, shape

CPU = torch.device("cpu")


def read(folder: Path, dtype: torch.dtype = torch.float32) -> Weights:
    return read_weights(folder, read_shape(folder), CPU, dtype)


def split(folder: Path) -> dict[str, str]:
    """Turn the one file into shards, one for each part; return the weight map."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    tensors = load_file(folder / SINGLE)
    places = {}
    for name, tensor in tensors.items():
        shard = "-".join(name.split(".")[: 2 if name.startswith("thinker") else 1]) + ".safetensors"
        parts.setdefault(shard, {})[name] = tensor
        places[name] = shard
    for shard, content in parts.items():
        save_file(content, folder / shard)
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def without(folder: Path, name: str) -> None:
    tensors = load_file(folder / SINGLE)
    del tensors[name]
    save_file(tensors, folder / SINGLE)


def test_only_what_hears_and_writes_is_loaded_and_the_rest_is_reported(
    weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="soundmill"):
        read(FOLDER)
    [record] = caplog.records
    skipped = {part.part: part.tensors for part in weights.skipped}
    held = sum(tensor.numel() * tensor.itemsize for tensor in load_file(FOLDER / SINGLE).values())
    no_bias_of_keys = sum(4 * shape().audio.hidden for _ in range(shape().audio.layers))

    assert skipped == {"thinker.visual": 22, "token2wav": 122, "talker": 17, "thinker.audio_tower": 1}
    left_out = sum(part.bytes for part in weights.skipped)
    assert weights.language_bytes + weights.tower_bytes + left_out == held + no_bias_of_keys
    assert record.__dict__["language_model_bytes"] == weights.language_bytes
    assert record.__dict__["skipped"]["talker"]["tensors"] == 17


def test_bf16_takes_half_of_the_memory(weights: Weights) -> None:
    half = read(FOLDER, torch.bfloat16)

    assert half.language_bytes == weights.language_bytes // 2
    assert {tensor.dtype for tensor in half.language.tensors()} == {torch.bfloat16}


def test_shards_give_the_same_and_those_of_other_parts_need_not_be_there(
    folder: Path, weights: Weights
) -> None:
    split(folder)
    for part in ("talker", "token2wav", "thinker-visual"):
        (folder / f"{part}.safetensors").unlink()
    found = read(folder)

    for one, other in zip(found.language.tensors(), weights.language.tensors(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(found.tower.tensors(), weights.tower.tensors(), strict=True):
        assert torch.equal(one, other)


def test_neither_pillow_nor_torchvision_nor_a_pickle_is_needed() -> None:
    assert not list(FOLDER.glob("*.pt"))
    code = f"""
import sys
for name in ("PIL", "torchvision"):
    sys.modules[name] = None
from pathlib import Path
from soundmill.models.captioner.prompt import Speller
from soundmill.models.captioner.shape import read_shape
from soundmill.models.captioner.weights import read_weights
from soundmill.models.captioner import captioning, listener, rows
import torch
folder = Path({str(FOLDER)!r})
shape = read_shape(folder)
Speller(folder, shape)
read_weights(folder, shape, torch.device("cpu"), torch.float32)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def _pickles_only(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")


def _pointer(folder: Path) -> None:
    (folder / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\nsize 17900000000\n")


def _cut(folder: Path) -> None:
    content = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(content[: len(content) // 2])


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _config(folder: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def _shard_missing(folder: Path) -> None:
    split(folder)
    (folder / "thinker-model.safetensors").unlink()


def _shard_elsewhere(folder: Path) -> None:
    places = split(folder)
    places["thinker.lm_head.weight"] = "../../secret.safetensors"
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_pickles_only, "holds no model.safetensors"),
        (_pointer, "damaged or was not downloaded completely"),
        (_cut, "damaged or was not downloaded completely"),
        (_no_config, "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (lambda f: _config(f, lambda c: c.update(model_type="llama")), "a 'llama' model, not 'qwen2_5_omni'"),
        (lambda f: _config(f, lambda c: c.pop("thinker_config")), "no usable 'thinker_config'"),
        (lambda f: _config(f, lambda c: c["thinker_config"]["text_config"].update(hidden_size=96)),
         "sizes that do not fit"),
        (lambda f: _config(f, lambda c: c["thinker_config"]["text_config"].update(intermediate_size=96)),
         "config.json asks for"),
        (lambda f: _config(f, lambda c: c["thinker_config"]["text_config"].update(
            rope_parameters={"rope_type": "yarn"})), "rotary positions of type 'yarn'"),
        (lambda f: without(f, "thinker.model.layers.1.mlp.up_proj.weight"), "no tensor thinker.model.layers.1.mlp"),
        (lambda f: without(f, "thinker.audio_tower.ln_post.bias"), "no tensor thinker.audio_tower.ln_post.bias"),
        (_shard_missing, "thinker-model.safetensors is missing"),
        (_shard_elsewhere, "outside of its folder"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_refused_with_a_sentence(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    with pytest.raises(ModelUnavailable, match=words):
        read(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "is damaged"),
        (lambda f: (f / "tokenizer.json").write_text(
            (f / "tokenizer.json").read_text().replace("<|im_end|>", "<|end|>")), "another model's"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_cannot_be_used_is_refused_with_a_sentence(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    with pytest.raises(ModelUnavailable, match=words):
        Speller(folder, shape())


def test_a_configuration_of_the_older_form_means_the_same(folder: Path) -> None:
    def old(config: dict) -> None:  # type: ignore[type-arg]
        text = config["thinker_config"]["text_config"]
        del text["rope_parameters"], text["rms_norm_eps"]
        text |= {"rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}

    _config(folder, old)
    assert read_shape(folder) == shape()
