from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from soundmill.models.finding import Finding
from soundmill.models.ming.checks import examine
from soundmill.models.ming.layout import ENCODER

from . import golden


def changed(tmp_path: Path, **tensors: torch.Tensor) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(golden.CHECKPOINT, folder)
    stored = dict(load_file(folder / "model.safetensors"))
    save_file(stored | tensors, folder / "model.safetensors")
    return folder


def answers(folder: Path) -> dict[str, Finding]:
    return {finding.question: finding for finding in examine(folder)}


def test_the_tiny_checkpoint_has_the_published_layout_and_trained_layers_all_the_way() -> None:
    found = answers(golden.CHECKPOINT)

    wrong = {question for question, finding in found.items() if not finding.as_expected}
    assert wrong == {"depth of the audio encoder", "ids of the tokenizer"}
    assert "layers 4, 5 were trained" in found["depth of the audio encoder"].answer


def test_layers_that_were_never_trained_are_recognised(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    untouched = {}
    for name, tensor in load_file(golden.CHECKPOINT / "model.safetensors").items():
        if name.startswith((f"{ENCODER}encoder.layers.4.", f"{ENCODER}encoder.layers.5.")):
            normal = 0.02 * torch.randn(tensor.shape, generator=generator)
            untouched[name] = torch.ones_like(tensor) if "layernorm" in name else normal
            if name.endswith("bias"):
                untouched[name] = torch.zeros_like(tensor)

    finding = answers(changed(tmp_path, **untouched))["depth of the audio encoder"]

    assert finding.as_expected
    assert "encoder_layers=4 is right" in finding.answer


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("model.lm_head.weight", "head of the vocabulary"),
        ("linear_proj_audio.rotary_embed.inv_freq", "frequencies of the rotations"),
        ("audio.decoder.head.istft.window", "window of the synthesis"),
    ],
)
def test_tensors_that_this_program_computes_are_compared_with_the_stored_ones(
    tmp_path: Path, name: str, question: str
) -> None:
    stored = load_file(golden.CHECKPOINT / "model.safetensors")[name]

    assert not answers(changed(tmp_path, **{name: stored + 0.1}))[question].as_expected


def test_a_tensor_of_another_name_is_told(tmp_path: Path) -> None:
    folder = changed(tmp_path, **{"extra.weight": torch.zeros(1)})

    assert answers(folder)["names of the tensors"].answer == "0 are missing and 1 unknown: extra.weight"
