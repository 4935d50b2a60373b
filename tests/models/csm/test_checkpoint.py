"""Loading checkpoints: the published layout, and folders in which something is wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from soundmill.models.csm.checkpoint import load_checkpoint
from soundmill.models.errors import ModelUnavailable

from .conftest import FOLDER

INDEX = "transformers.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The published layout: two shards that the config points to, and weights of another layout beside them."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(FOLDER / name, tmp_path)
    weights = load_file(FOLDER / "model.safetensors")
    names = sorted(weights)
    places: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"transformers-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, tmp_path / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = json.loads((FOLDER / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_weights": INDEX}))
    save_file({"backbone.layers.0.attn.q_proj.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    return tmp_path


def load(folder: Path | None) -> object:
    return load_checkpoint(folder, device="cpu", dtype=torch.float32)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_published_layout_is_loaded_from_its_shards(folder: Path) -> None:
    found = load_checkpoint(folder, device="cpu", dtype=torch.float32)
    weights = load_file(FOLDER / "model.safetensors")

    torch.testing.assert_close(found.model.lm_head.weight.data, weights["lm_head.weight"], rtol=0, atol=0)
    table = found.model.backbone_model.embed_tokens.embed_audio_tokens.weight
    assert table.data_ptr() == found.model.depth_decoder.model.embed_tokens.weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in found.model.parameters())


def test_the_codec_stays_in_fp32(folder: Path) -> None:
    model = load_checkpoint(folder, device="cpu", dtype=torch.bfloat16).model

    assert {tensor.dtype for tensor in model.codec_model.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in model.backbone_model.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in model.depth_decoder.parameters()} == {torch.bfloat16}


def _truncate(folder: Path, name: str, size: int = 5000) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:size])


SHARD = "transformers-00002-of-00002.safetensors"
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no index": (lambda folder: (folder / INDEX).unlink(), f"{INDEX} is missing, which config.json names"),
    "no shard": (lambda folder: (folder / SHARD).unlink(), f"{SHARD} is missing, which {INDEX} names"),
    "bad config": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read as JSON"),
    "bad index": (lambda folder: (folder / INDEX).write_text("[]"), f"{INDEX} holds no JSON object"),
    "empty index": (lambda folder: (folder / INDEX).write_text("{}"), f"{INDEX} lists no tensors"),
    "another model": (
        lambda folder: change_config(folder, architectures=["LlamaForCausalLM"], model_type="llama"),
        "config.json describes LlamaForCausalLM, not CsmForConditionalGeneration",
    ),
    "truncated": (lambda folder: _truncate(folder, SHARD, 200_000), f"{SHARD} is truncated: it has 200000 of"),
    "truncated header": (lambda folder: _truncate(folder, SHARD), f"{SHARD} is truncated"),
    "empty": (lambda folder: _truncate(folder, SHARD, 0), f"{SHARD} is truncated"),
    "pointer": (
        lambda folder: (folder / SHARD).write_text("version https://git-lfs.github.com/spec/v1\n" * 9),
        f"{SHARD} is truncated or no safetensors file",
    ),
    "original layout": (
        lambda folder: change_config(folder, transformers_weights="model.safetensors"),
        "model.safetensors holds no backbone_model.norm.weight: it is not in the layout of transformers",
    ),
    "another size": (lambda folder: change_config(folder, intermediate_size=128), "have another shape for backbone_model.layers.0.mlp"),
    "more layers": (lambda folder: change_config(folder, num_hidden_layers=3), "lack backbone_model.layers.2"),
    "parts that differ": (lambda folder: change_config(folder, num_codebooks=31), "differ in num_codebooks"),
    "other tokens": (lambda folder: change_config(folder, text_vocab_size=100), "have another shape for embed_text_tokens.weight; download"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_folder_is_said_with_the_name_of_the_file(folder: Path, what: str) -> None:
    spoil, words = WRONG[what]
    spoil(folder)
    with pytest.raises(ModelUnavailable, match=words) as caught:
        load(folder)
    assert len(str(caught.value)) < 600


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="give the folder of the weights as --checkpoint-dir"):
        load(None)
    with pytest.raises(ModelUnavailable, match=re.escape(f"{tmp_path / 'no'} is no folder")):
        load(tmp_path / "no")


def test_a_table_that_is_not_tied_is_refused(folder: Path) -> None:
    change_config(folder, tie_codebooks_embeddings=False)
    with pytest.raises(ModelUnavailable, match=r"not one table|lack"):
        load(folder)
