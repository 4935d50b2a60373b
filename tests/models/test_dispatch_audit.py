"""The audit finds what it is for, and is silent about what is fine."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from .dispatch_audit import TABLE, audited  # noqa: E402 - needs torch


def problems(work: Any, **options: Any) -> str:
    with torch.inference_mode(), audited() as audit:
        work()
    return "\n".join(audit.problems(**options))


def test_the_table_is_of_one_version_and_names_each_operation_once() -> None:
    table = json.loads(TABLE.read_text())
    assert (table["torch"], table["torch_npu"]) == ("2.13.0", "2.13.0")
    kinds = [set(table[kind]) for kind in ("kernel", "composite", "fallback")]
    assert [len(kind) for kind in kinds] == [1496, 1642, 391]
    assert len(set.union(*kinds)) == 3529
    assert "mm" in kinds[0]
    assert "_int_mm" in kinds[2]


def test_the_layers_of_a_transformer_and_of_a_codec_are_clean() -> None:
    attention = torch.nn.functional.scaled_dot_product_attention
    x = torch.ones(1, 2, 8, 16)
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    modules = [
        torch.nn.RMSNorm(16),
        torch.nn.Linear(16, 16),
        torch.nn.SiLU(),
        torch.nn.LayerNorm(16),
        torch.nn.GELU(),
    ]
    codec = torch.nn.Sequential(
        torch.nn.Conv1d(4, 8, 3), torch.nn.ELU(), torch.nn.ConvTranspose1d(8, 4, 4, 2)
    )

    def work() -> None:
        hidden = attention(x, x, x, attn_mask=mask)
        for module in modules:
            hidden = module(hidden)
        codec(torch.ones(1, 4, 32))
        torch.multinomial(torch.softmax(hidden[0, 0], -1), 1)

    with torch.inference_mode(), audited() as audit:
        work()
    audit.expect_clean()
    assert audit.launches >= 9
    assert not audit.reads.total()


@pytest.mark.parametrize(
    ("work", "problem"),
    [
        (lambda: torch._int_mm(torch.ones(32, 32, dtype=torch.int8), torch.ones(32, 32, dtype=torch.int8)),
         "_int_mm has no kernel in torch_npu"),
        (lambda: torch.ones(2, dtype=torch.float64) * 2, "mul.Tensor meets float64"),
        (lambda: torch.ones(2) * torch.ones(2).to(torch.float64), "_to_copy meets float64"),
        (lambda: torch.fft.rfft(torch.ones(8)), "_fft_r2c meets complex numbers"),
        (lambda: torch.ones(2).sum().item(), "_local_scalar_dense makes the host wait, 1 time(s)"),
        (lambda: torch.ones(4)[torch.ones(4) > 0], "index.Tensor makes the host wait"),
        (lambda: torch.ones(4).nonzero(), "nonzero makes the host wait"),
        (lambda: torch.ones(4, dtype=torch.bfloat16).cumsum(0), "cumsum meets bf16"),
        (lambda: torch.nn.functional.conv1d(*(torch.ones(1, 1, 3, dtype=torch.bfloat16),) * 2), "convolution meets bf16"),
        (lambda: torch.nn.functional.conv_transpose1d(*(torch.ones(1, 1, 3, dtype=torch.float16),) * 2),
         "a transposed convolution below fp32"),
        (lambda: torch.nn.functional.scaled_dot_product_attention(
            *(torch.ones(1, 1, 2, 4),) * 3, attn_mask=torch.zeros(2, 2)), "gets a mask of numbers"),
    ],
)  # fmt: skip
def test_what_should_not_reach_an_npu_is_found(work: Any, problem: str) -> None:
    assert problem in problems(work)


def test_a_read_may_be_allowed_and_an_operation_accepted() -> None:
    assert problems(lambda: torch.ones(2).sum().item(), reads=True) == ""
    assert problems(lambda: torch.fft.rfft(torch.ones(8)), allow={"_fft_r2c"}) == ""


def test_an_audit_that_saw_nothing_fails() -> None:
    with audited() as audit:
        pass
    with pytest.raises(AssertionError, match="nothing ran"):
        audit.expect_clean()


def test_sampling_by_every_rule_asks_an_npu_for_nothing_that_it_lacks() -> None:
    from soundmill.models.engine.sampling import Sampler, Sampling

    sampler = Sampler(vocabulary=50, device="cpu")
    logits = torch.linspace(-2, 2, 100).reshape(2, 50)
    seen = torch.arange(100).reshape(2, 50) % 3 == 0
    with torch.inference_mode():
        sampler.reserve(2)
        with audited() as audit:
            sampler.set(0, Sampling(temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.2))
            sampler.set(1, Sampling(temperature=0.0))
            sampler.draw(logits, torch.tensor([0.2, 0.9]), seen=seen)
            sampler.move(0, 1)
            sampler.clear(0)
    audit.expect_clean()
