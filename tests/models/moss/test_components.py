"""The parts of MOSS beside each other: equal checkpoints agree, and an error is found in the part that has it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor, cat

from soundmill.models.moss import components as parts
from soundmill.models.moss.language_model import LanguageModel
from soundmill.models.verification.material import gather
from soundmill.storage.direct import fields_of

from ..fake_npu import in_fake_npu
from ..verification.planting import Change, heads_swapped, larger
from ..verified import failed, lines

CODEC_FILE = "model-00001-of-00001.safetensors"


def spoiled(folder: Path, to: Path, tensor: str, change: Change = larger) -> Path:
    """A copy of a checkpoint in which one tensor, of whichever of both files, is changed."""
    shutil.copytree(folder.parent, to)
    for file in (to / folder.name / "model.safetensors", to / "codec" / CODEC_FILE):
        tensors = load_file(file)
        if tensor in tensors:
            tensors[tensor] = change(tensors[tensor]).contiguous()
            save_file(tensors, file)
            return to / folder.name
    raise AssertionError(f"there is no {tensor}")


def test_two_loads_agree_whatever_their_threads(folder: Path) -> None:
    found = lines("moss", folder, folder, threads=2)

    assert failed(found) == {}
    assert [line.component for line in found if line.verdict == "reported"] == ["free run"]
    assert list(dict.fromkeys(line.component for line in found)) == [
        "backbone", "local decoder", "free run", "codec encoder", "codec quantizer", "codec decoder",
        "codec decoder, streaming",
    ]  # fmt: skip
    for line in found:
        for figures in line.cases.values():
            assert figures.relative_error is None or figures.relative_error < 1e-5, line.name


def test_in_16_bit_the_language_model_agrees_and_the_codec_stays_in_fp32(
    folder: Path, tmp_path: Path
) -> None:
    found = lines("moss", folder, folder, dtype="bf16")

    assert failed(found) == {}
    assert {line.dtype for line in found if "codec" in line.component} == {"fp32"}
    assert {line.dtype for line in found if "codec" not in line.component} == {"bf16"}


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("transformer.h.2.attn.c_attn.weight", {"backbone": "layer 2"}),
        ("transformer.h.1.mlp.fc_out.weight", {"backbone": "layer 1"}),
        ("local_transformer.h.0.mlp.fc_in.weight", {"local decoder": "gate"}),
        ("encoder.3.transformer.layers.0.self_attn.in_proj.weight", {"codec encoder": "layer 2"}),
        ("encoder.7.output_proj.weight", {"codec encoder": "latents"}),
        ("quantizer.input_proj.parametrizations.weight.original0", {"codec quantizer": "codes"}),
        ("quantizer.quantizers.1.codebook.weight", {"codec quantizer": "codes"}),
        (
            "decoder.5.transformer.layers.0.ffn.2.weight",
            {"codec decoder": "layer 3", "codec decoder, streaming": "layer 3"},
        ),
    ],
)  # fmt: skip
def test_a_matrix_that_is_2_percent_too_large_fails_the_part_that_has_it(
    folder: Path, tmp_path: Path, tensor: str, expected: dict[str, str]
) -> None:
    other = spoiled(folder, tmp_path / "other", tensor)

    found = failed(lines("moss", folder, other))

    if "quantizers.1" in tensor:  # what codes stand for is heard in the sound, too
        expected = expected | {"codec decoder": "audio", "codec decoder, streaming": "audio"}
        found = {name: [tensors[0], *tensors] for name, tensors in found.items()}
        assert found.keys() == expected.keys()
        assert all(expected[name] in tensors for name, tensors in found.items())
        return
    assert {name: tensors[0] for name, tensors in found.items()} == expected


def test_a_swapped_head_of_an_attention_is_named(folder: Path, tmp_path: Path) -> None:
    def of_the_queries(tensor: Tensor) -> Tensor:
        queries, others = tensor[: tensor.shape[1]], tensor[tensor.shape[1] :]
        return cat((heads_swapped(4)(queries), others))

    other = spoiled(folder, tmp_path / "other", "transformer.h.2.attn.c_attn.weight", of_the_queries)

    found = failed(lines("moss", folder, other))

    assert list(found) == ["backbone"]
    assert found["backbone"][0] == "layer 2"


def test_exchanged_heads_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exchanged(LanguageModel):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._heads[2], self._heads[5] = self._heads[5], self._heads[2]

    lines("moss", folder, folder)  # the reference is asked with the heads in their places
    monkeypatch.setattr(parts, "LanguageModel", Exchanged)

    assert failed(lines("moss", folder, folder)) == {"local decoder": ["codebook 2", "codebook 5"]}


def test_every_number_that_is_loaded_is_counted_once(folder: Path) -> None:
    language = load_file(folder / "model.safetensors")
    codec = load_file(folder.parent / "codec" / CODEC_FILE)

    counted = parts.parameters(folder)

    assert counted == sum(tensor.numel() for tensor in (*language.values(), *codec.values()))


def test_the_trials_are_arguments_of_a_job(tmp_path: Path) -> None:
    asked = parts.trials(gather(tmp_path))

    assert [trial.name for trial in asked] == ["short", "medium", "chinese", "short, cloned"]
    for trial in asked:
        fields = fields_of("moss-tts-nano-100m", trial.fields)
        assert trial.longest_s is not None
        assert fields["max_new_frames"] / 12.5 <= trial.longest_s + 0.08


# Each operation on a fake card costs a fraction of a millisecond, so not all is asked of it twice.
SLOW = ("free run",)
ALL_BUT_THE_BACKBONE = (
    "local decoder", "free run", "codec encoder", "codec quantizer", "codec decoder", "codec decoder, streaming",
)  # fmt: skip


@in_fake_npu(cards=1, memory_mib=256)
def test_a_fake_card_agrees_with_the_processor_and_its_errors_are_found(folder: Path, tmp_path: Path) -> None:
    assert failed(lines("moss", folder, folder, card="npu:0", without=SLOW)) == {}

    other = spoiled(folder, tmp_path / "other", "transformer.h.3.mlp.fc_in.weight")
    found = failed(lines("moss", folder, other, card="npu:0", without=ALL_BUT_THE_BACKBONE))

    assert found["backbone"][0] == "layer 3"
