"""The parts of Ming beside each other: equal checkpoints agree, and an error is found in the part that has it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from soundmill.models.ming import components as parts
from soundmill.models.verification.material import gather
from soundmill.storage.direct import fields_of

from ..fake_npu import in_fake_npu
from ..verification.planting import Change, heads_swapped, larger
from ..verified import failed, lines
from .golden import CHECKPOINT

FILE = "model.safetensors"


def spoiled(to: Path, tensor: str, change: Change = larger) -> Path:
    """A copy of the checkpoint in which one tensor is changed."""
    shutil.copytree(CHECKPOINT, to)
    tensors = load_file(to / FILE)
    tensors[tensor] = change(tensors[tensor]).contiguous()
    save_file(tensors, to / FILE)
    return to


def test_two_loads_agree_whatever_their_threads() -> None:
    found = lines("ming", CHECKPOINT, CHECKPOINT, threads=2)

    assert failed(found) == {}
    assert list(dict.fromkeys(line.component for line in found)) == [
        "aggregator", "speaker head", "backbone", "stop head", "DiT velocity", "flow solve", "audio encoder",
        "audio decoder", "audio decoder, streaming", "synthesis",
    ]  # fmt: skip
    for line in found:
        for figures in line.cases.values():
            assert figures.relative_error is not None, line.name
            assert figures.relative_error < 1e-5, line.name


def test_in_16_bit_the_generator_agrees_and_the_codec_stays_in_fp32() -> None:
    found = lines("ming", CHECKPOINT, CHECKPOINT, dtype="bf16")

    assert failed(found) == {}
    audio = {"audio encoder", "audio decoder", "audio decoder, streaming", "synthesis"}
    assert {line.dtype for line in found if line.component in audio} == {"fp32"}
    assert {line.dtype for line in found if line.component not in audio} == {"bf16"}


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("linear_proj_audio.blocks.0.mlp.ff.2.weight", {"aggregator": "vectors"}),
        ("spk_head.weight", {"speaker head": "inputs"}),
        ("model.model.layers.1.self_attn.v_proj.weight", {"backbone": "layer 1"}),
        ("stop_head.weight", {"stop head": "logits"}),
        (
            "flowloss.cfm.model.blocks.1.attn.to_out.0.weight",
            {"DiT velocity": "block 1", "flow solve": "patches"},
        ),
        (
            "flowloss.cfm.model.t_embedder.time_mlp.2.weight",
            {"DiT velocity": "times", "flow solve": "patches"},
        ),
        ("audio.encoder.encoder.layers.2.mlp.down_proj.weight", {"audio encoder": "layer 2"}),
        ("audio.encoder.aggregator.layers.0.self_attn.o_proj.weight", {"audio encoder": "layer 4"}),
        (
            "audio.decoder.decoder.layers.1.mlp.up_proj.weight",
            {"audio decoder": "layer 1", "audio decoder, streaming": "layer 1"},
        ),
        (
            "audio.decoder.head.out.weight",
            {"audio decoder": "samples", "audio decoder, streaming": "samples", "synthesis": "frames"},
        ),
    ],
)
def test_a_matrix_that_is_2_percent_too_large_fails_the_part_that_has_it(
    tmp_path: Path, tensor: str, expected: dict[str, str]
) -> None:
    found = failed(lines("ming", CHECKPOINT, spoiled(tmp_path / "other", tensor)))

    assert {name: tensors[0] for name, tensors in found.items()} == expected


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("model.model.layers.0.self_attn.q_proj.weight", {"backbone": "layer 0"}),
        (
            "flowloss.cfm.model.blocks.1.attn.to_v.weight",
            {"DiT velocity": "block 1", "flow solve": "patches"},
        ),
    ],
)
def test_a_swapped_head_of_an_attention_is_named(
    tmp_path: Path, tensor: str, expected: dict[str, str]
) -> None:
    other = spoiled(tmp_path / "other", tensor, heads_swapped(4))

    found = failed(lines("ming", CHECKPOINT, other))

    assert {name: tensors[0] for name, tensors in found.items()} == expected


def test_an_exchanged_head_is_named(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "other")
    tensors = load_file(tmp_path / "other" / FILE)
    for name in ("stop_head.weight", "stop_head.bias"):
        tensors[name] = tensors[name].flip(0).contiguous()  # "go on" for "stop"
    save_file(tensors, tmp_path / "other" / FILE)

    found = failed(lines("ming", CHECKPOINT, tmp_path / "other"))

    assert found == {"stop head": ["logits", "probability"]}


def test_only_what_is_loaded_is_counted() -> None:
    tensors = load_file(CHECKPOINT / FILE)
    spare = {"model.lm_head.weight", "audio.encoder.norm.weight", "audio.encoder.norm.bias"}
    spare |= {
        name for name in tensors
        if name.startswith(("audio.encoder.encoder.layers.4.", "audio.encoder.encoder.layers.5."))
        or (name.startswith("audio.") and name.endswith("embed_tokens.weight"))
        or name.endswith((".inv_freq", ".istft.window"))
    }  # fmt: skip

    assert parts.parameters(CHECKPOINT) == sum(
        tensor.numel() for name, tensor in tensors.items() if name not in spare
    )


def test_the_trials_are_arguments_of_a_job(tmp_path: Path) -> None:
    asked = parts.trials(gather(tmp_path))

    assert [trial.name for trial in asked] == ["short", "medium", "chinese", "short, cloned"]
    for trial in asked:
        fields = fields_of("ming-omni-tts-0.5b", trial.fields)
        assert trial.longest_s is not None
        assert fields["max_steps"] * 0.32 <= trial.longest_s + 0.32


def test_without_onnxruntime_no_voice_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "find_spec", lambda _: None)

    assert [trial.name for trial in parts.trials(gather(tmp_path))] == ["short", "medium", "chinese"]


@in_fake_npu(cards=1, memory_mib=256)
def test_a_fake_card_agrees_with_the_processor_and_its_errors_are_found(tmp_path: Path) -> None:
    assert failed(lines("ming", CHECKPOINT, CHECKPOINT, card="npu:0")) == {}

    other = spoiled(tmp_path / "other", "linear_proj_audio.blocks.1.attn.to_q.weight")
    slow = ("backbone", "audio encoder", "audio decoder", "audio decoder, streaming")

    assert list(failed(lines("ming", CHECKPOINT, other, card="npu:0", without=slow))) == ["aggregator"]
