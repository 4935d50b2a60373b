"""The fused depth loop against the modules of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from soundmill.models.csm.choice import Choice
from soundmill.models.csm.depth import Depth, ModularDepth
from soundmill.models.csm.fused import FusedDepth, merged, rotations
from soundmill.models.csm.sizes import Sizes

from ..dispatch_audit import audited
from .tiny import tiny_csm

LAUNCHES_OF_RMS_NORM = 6  # where it is not one kernel, as on a processor

Logits = list[torch.Tensor]


class Noting(Choice):
    """Notes the logits of each choice, and chooses what is forced."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(codes=sizes.codes, max_top_k=8, device="cpu")
        self.logits: Logits = []

    def code(self, logits: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
        self.logits.append(logits.clone())
        return (torch.arange(len(logits)) * 7 + 3 * len(self.logits)) % 30


def frame(depth: Depth, sizes: Sizes, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, Logits]:
    choice = Noting(sizes)
    depth.reserve(rows + 2)
    state = torch.randn(rows, sizes.width, generator=torch.Generator().manual_seed(rows)).to(dtype)
    with torch.inference_mode():
        codes = depth.frame(state, torch.arange(rows) % 5, torch.zeros(rows, sizes.codebooks), choice)
    return codes, choice.logits


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
def test_the_fused_loop_computes_what_the_modules_compute(
    rows: int, dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny_csm(codebooks=9, ids=35).to(dtype)
    sizes = Sizes.of(model.config)
    wanted, theirs = frame(ModularDepth(model, sizes), sizes, rows, dtype)
    found, ours = frame(FusedDepth(model, sizes), sizes, rows, dtype)

    assert torch.equal(wanted, found)
    assert len(ours) == len(theirs) == 8
    scale = max(logits.abs().max().item() for logits in theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance * scale)


def test_the_modules_go_on_with_the_merged_weights() -> None:
    model = tiny_csm(codebooks=9, ids=35)
    sizes = Sizes.of(model.config)
    before, _ = frame(ModularDepth(model, sizes), sizes, 2, torch.float32)
    FusedDepth(model, sizes)
    attention = model.depth_decoder.model.layers[0].self_attn
    after, _ = frame(ModularDepth(model, sizes), sizes, 2, torch.float32)

    assert torch.equal(before, after)
    stored = {module.weight.untyped_storage().data_ptr() for module in (attention.q_proj, attention.v_proj)}
    assert len(stored) == 1


def test_a_layer_takes_at_most_12_launches() -> None:
    model = tiny_csm(codebooks=9, ids=35)
    depth = FusedDepth(model, Sizes.of(model.config))
    depth.reserve(4)
    hidden = torch.randn(4, 48)
    with torch.inference_mode(), audited() as audit:
        depth._layers[0](hidden, 3, depth._rotations[3])

    assert audit.launches - 2 * (LAUNCHES_OF_RMS_NORM - 1) - audit.calls["_unsafe_view"] <= 12, audit.calls


def test_a_rotation_is_the_rotary_embedding() -> None:
    angles = torch.arange(5)[:, None] * torch.tensor([1.0, 0.1, 0.01]).repeat(2)[None]
    x = torch.randn(2, 5, 6)
    turned = torch.cat([-x[..., 3:], x[..., :3]], -1)

    expected = x * angles.cos() + turned * angles.sin()
    found = torch.einsum("btw,twv->btv", x, rotations(angles.cos(), angles.sin()))
    torch.testing.assert_close(found, expected)


def test_a_model_of_another_form_is_not_fused() -> None:
    model: Any = tiny_csm(codebooks=4, ids=35)
    assert FusedDepth.fits(model)
    model.config.depth_decoder_config.mlp_bias = True
    assert not FusedDepth.fits(model)


def test_merged_weights_are_views() -> None:
    modules = [torch.nn.Linear(3, rows, bias=False).requires_grad_(False) for rows in (2, 5)]
    before = [module.weight.clone() for module in modules]
    weight = merged(*modules)

    assert torch.equal(weight, torch.cat(before))
    assert modules[1].weight.data_ptr() == weight[2:].data_ptr()
