"""Checkpoints in their published layout: what is read, what is converted, and what is refused with which words."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soundmill.models.conversion import convert
from soundmill.models.errors import ModelUnavailable
from soundmill.models.moss.codec import Codec, check_agreement
from soundmill.models.moss.config import CodecConfig, LanguageConfig
from soundmill.models.moss.folders import Folders
from soundmill.models.moss.settings import MossSettings
from soundmill.models.moss.tokenizer import Tokenizer
from soundmill.models.moss.weights import Weights

from .conftest import DATA, load_model


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder to spoil."""
    shutil.copytree(folder.parent, tmp_path / "moss")
    return tmp_path / "moss" / "tts"


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


# -- conversion ----------------------------------------------------------------------------------------


def test_a_pickle_becomes_safetensors_with_tied_tensors_once(tmp_path: Path) -> None:
    shutil.copytree(DATA / "tts", tmp_path / "tts")

    done = convert(tmp_path / "tts")

    published = torch.load(DATA / "tts" / "pytorch_model.bin", weights_only=True)
    converted = load_file(tmp_path / "tts" / "model.safetensors")
    assert len(done["tied"]) == 9
    assert done["tensors"] == len(converted) == len(published) - 9
    assert all(torch.equal(tensor, published[name]) for name, tensor in converted.items())
    assert {tensor.dtype for tensor in converted.values()} == {torch.bfloat16}
    with pytest.raises(ModelUnavailable, match="exists already"):
        convert(tmp_path / "tts")


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), b"no pickle at all", pickle.dumps(_Evil())])
def test_a_file_that_holds_more_than_tensors_is_not_converted(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(content)

    with pytest.raises(ModelUnavailable, match=r"pytorch_model\.bin"):
        convert(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"pytorch_model.bin"}


def test_an_old_torch_converts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(DATA / "tts" / "pytorch_model.bin", tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.9.1")

    with pytest.raises(ModelUnavailable, match=r"torch 2\.10 or later"):
        convert(tmp_path)


def test_the_command_converts_in_a_process_of_its_own(tmp_path: Path) -> None:
    shutil.copy(DATA / "tts" / "pytorch_model.bin", tmp_path)
    command = [sys.executable, "-m", "soundmill.producer", "models", "convert", str(tmp_path)]

    first = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    again = subprocess.run(command, capture_output=True, text=True, check=False)

    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["file"] == str(tmp_path / "model.safetensors")
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_a_worker_refuses_a_pickle_and_says_how_to_convert_it() -> None:
    with pytest.raises(ModelUnavailable, match=r"soundmill models convert .*/tts"):
        Weights(DATA / "tts")


# -- what is refused -----------------------------------------------------------------------------------


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"tts/model\.safetensors is missing"):
        Weights(copy)
    (copy / "tokenizer.model").unlink()
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.model is missing"):
        Tokenizer(copy / "tokenizer.model")
    codec = copy.parent / "codec"
    (codec / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="model-00001-of-00001"):
        Weights(codec)
    (copy / "config.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"config\.json cannot be read"):
        Folders.find(copy)


def test_a_truncated_file_is_named(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])

    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is damaged or truncated"):
        Weights(copy)


def test_a_tokenizer_that_is_none_is_named(copy: Path) -> None:
    (copy / "tokenizer.model").write_bytes(b"no model")

    with pytest.raises(ModelUnavailable, match="no SentencePiece model"):
        Tokenizer(copy / "tokenizer.model")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.update(model_type="csm"), "is of 'csm'"),
        (lambda raw: raw.pop("n_vq"), "'n_vq' is missing"),
        (lambda raw: raw.update(audio_codebook_sizes=[64]), "1 entries for n_vq = 8"),
        (lambda raw: raw.update(audio_pad_token_id=3), "lies inside a codebook"),
        (lambda raw: raw["gpt2_config"].update(position_embedding_type="absolute"), "'rope'"),
        (lambda raw: raw["gpt2_config"].update(n_head=7), "7 heads"),
    ],
)
def test_a_config_of_another_model_is_refused(copy: Path, change: Callable[[Any], None], words: str) -> None:
    edit(copy / "config.json", change)

    with pytest.raises(ModelUnavailable, match=words):
        LanguageConfig.read(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.update(model_type="mimi"), "is of 'mimi'"),
        (lambda raw: raw.update(quantizer_type="rvq"), "'rlfq'"),
        (lambda raw: raw.update(downsample_rate=100), "downsample_rate 100"),
        (lambda raw: raw["encoder_kwargs"][1].update(gating="silu"), "gating has to be 'none'"),
        (lambda raw: raw["decoder_kwargs"].pop(), "the decoder ends at"),
    ],
)
def test_a_codec_of_another_kind_is_refused(copy: Path, change: Callable[[Any], None], words: str) -> None:
    codec = copy.parent / "codec"
    edit(codec / "config.json", change)

    with pytest.raises(ModelUnavailable, match=words):
        CodecConfig.read(codec)


def test_a_codec_without_a_list_for_its_decoder_mirrors_the_encoder(copy: Path) -> None:
    codec = copy.parent / "codec"
    given = CodecConfig.read(codec)
    edit(codec / "config.json", lambda raw: raw.pop("decoder_kwargs"))

    assert CodecConfig.read(codec).decoder == given.decoder


def test_tied_tensors_that_differ_are_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["audio_lm_heads.3.weight"] = tensors["audio_embeddings.3.weight"].clone()
    save_file(tensors, copy / "model.safetensors")
    load_model(copy)
    tensors["audio_lm_heads.3.weight"][0, 0] += 1
    save_file(tensors, copy / "model.safetensors")

    with pytest.raises(ModelUnavailable, match=r"audio_lm_heads\.3\.weight and audio_embeddings\.3"):
        load_model(copy)


def test_a_tensor_that_is_missing_or_of_another_shape_is_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    name = "transformer.h.1.mlp.fc_in.weight"
    save_file(tensors | {name: tensors[name][:-1].clone()}, copy / "model.safetensors")
    with pytest.raises(ModelUnavailable, match=rf"{name} is \[191, 64\].*\[192, 64\]"):
        load_model(copy)
    del tensors[name]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ModelUnavailable, match=f"no tensor '{name}'"):
        load_model(copy)


def test_heads_alone_stand_for_embeddings_they_are_tied_to(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["text_lm_head.weight"] = tensors.pop("transformer.wte.weight")
    tensors["local_transformer.wte.weight"] = torch.zeros(3, 3)
    save_file(tensors, copy / "model.safetensors")

    assert torch.equal(load_model(copy)._text, tensors["text_lm_head.weight"].float())


def test_old_names_of_the_codecs_tensors_are_known(copy: Path, codec: Codec) -> None:
    place = copy.parent / "codec"
    [shard] = place.glob("*.safetensors")
    renamed = {}
    for name, tensor in load_file(shard).items():
        for new, old in (
            ("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"),
            ("self_attn.in_proj.weight", "self_attn.in_projs.0.weight"), ("ffn.0.weight", "linear1.weight"),
            ("self_attn.out_proj.weight", "self_attn.out_projs.0.weight"), ("ffn.2.weight", "linear2.weight"),
        ):  # fmt: skip
            name = name.replace(new, old)  # noqa: PLW2901 - renamed in turn
        renamed[name] = tensor
    (place / "model.safetensors.index.json").unlink()
    shard.unlink()
    save_file(renamed, place / "model.safetensors")
    codes = torch.arange(16).view(1, 2, 8)

    with torch.inference_mode():
        other = Codec(CodecConfig.read(place), Weights(place), torch.device("cpu"))
        assert torch.equal(other.dequantize(codes), codec.dequantize(codes))


def test_a_codec_that_does_not_fit_the_model_is_refused(codec: Codec) -> None:
    with pytest.raises(ModelUnavailable, match=r"8 codebooks of 64 at 4800 Hz.* wants 16 of 64 at 4800 Hz"):
        check_agreement(codec.config, 16, [64] * 16, 4800)


# -- folders and settings ------------------------------------------------------------------------------


def test_the_codec_is_found_beside_and_inside_of_the_checkpoint(copy: Path) -> None:
    assert Folders.find(copy).codec.resolve() == copy.parent / "codec"
    shutil.move(copy.parent / "codec", copy / "MOSS-Audio-Tokenizer-Nano")
    assert Folders.find(copy).codec == copy / "MOSS-Audio-Tokenizer-Nano"
    shutil.move(copy / "MOSS-Audio-Tokenizer-Nano", copy.parent / "elsewhere")
    with pytest.raises(ModelUnavailable, match=f"put its folder at one of: {copy}/MOSS-Audio-Tokenizer-Nano"):
        Folders.find(copy)
    assert Folders.find(copy, codec=str(copy.parent / "elsewhere")).codec == copy.parent / "elsewhere"


@pytest.mark.parametrize("checkpoint", [None, Path("/no/such/folder")])
def test_no_checkpoint_is_an_error_with_its_remedy(checkpoint: Path | None) -> None:
    with pytest.raises(ModelUnavailable, match="checkpoint"):
        Folders.find(checkpoint)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"flow_steps": "3"}, "no setting 'flow_steps'"),
        ({"context": "many"}, "context is a whole number"),
        ({"linears": "int4"}, "linears is auto or int8"),
    ],
)
def test_settings_of_no_use_are_refused(extra: dict[str, str], words: str) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        MossSettings.read(extra)
