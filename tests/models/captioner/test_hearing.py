"""The audio tower: embeddings of the published code, whatever clips share a call."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from soundmill.models.captioner.hearing import tokens_of
from soundmill.models.captioner.listener import Listener
from soundmill.models.captioner.spectrum import log_mel
from soundmill.models.captioner.weights import Weights
from soundmill.models.device import Device
from soundmill.models.engine.ports import Item

from ..dispatch_audit import audited
from .golden import Golden, goldens, shape, weights_on


def mel_of(golden: Golden) -> torch.Tensor:
    return torch.from_numpy(log_mel(golden.samples))


def heard(listener: Listener, clips: Sequence[torch.Tensor], budget_s: float = 0.05) -> list[torch.Tensor]:
    items: list[Item[torch.Tensor, torch.Tensor]] = [Item(payload=clip) for clip in clips]
    for _ in range(1000):
        listener.run([item for item in items if not item.done], budget_s)
        if all(item.done for item in items):
            return [item.result for item in items if item.result is not None]
    raise AssertionError("it never ends")


@pytest.mark.parametrize("golden", goldens(), ids=lambda golden: golden.name)
def test_a_clip_alone_has_the_golden_embeddings(weights: Weights, golden: Golden) -> None:
    [found] = heard(Listener(weights.tower), [mel_of(golden)])

    torch.testing.assert_close(found, golden.embeddings, rtol=0, atol=1e-4)


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("budget_s", [1e-9, 0.05, 10.0])
def test_clips_of_different_lengths_share_calls_and_stay_the_same(
    weights: Weights, budget_s: float, reproducible: bool
) -> None:
    clips = [mel_of(golden) for golden in goldens()]
    found = heard(Listener(weights.tower, reproducible=reproducible), clips, budget_s)

    for embeddings, golden in zip(found, goldens(), strict=True):
        torch.testing.assert_close(embeddings, golden.embeddings, rtol=0, atol=1e-4)


def test_a_reproducible_clip_in_bf16_does_not_depend_on_its_company_to_the_last_bit(device: Device) -> None:
    listener = Listener(weights_on(device, torch.bfloat16).tower, reproducible=True)
    clips = [mel_of(golden) for golden in goldens()]
    alone = [heard(listener, [clip])[0] for clip in clips]

    for one, other in zip(heard(listener, clips), alone, strict=True):
        assert torch.equal(one, other)


def test_a_long_clip_takes_several_calls_and_tells_its_progress(weights: Weights) -> None:
    item: Item[torch.Tensor, torch.Tensor] = Item(payload=torch.randn(128, 200 * 300))
    listener = Listener(weights.tower)
    seen = []
    while not item.done:
        listener.run([item], 1e-3)
        seen.append(item.progress)

    assert len(seen) > 1
    assert seen == sorted(seen)  # type: ignore[type-var]
    assert seen[-1] == 1.0
    assert item.result is not None
    assert len(item.result) == 50 * 300
    assert item.metrics["encode_s"] > 0  # type: ignore[operator]


def test_a_call_that_runs_out_of_memory_has_advanced_nothing(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(weights.tower)
    item: Item[torch.Tensor, torch.Tensor] = Item(payload=mel_of(goldens()[0]))

    def refuse(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(weights.tower, "run", refuse)
        with pytest.raises(torch.OutOfMemoryError):
            listener.run([item], 0.05)
    assert item.state is None
    [found] = heard(listener, [item.payload])
    torch.testing.assert_close(found, goldens()[0].embeddings, rtol=0, atol=1e-4)


def test_as_many_embeddings_are_expected_as_the_published_formula_says() -> None:
    for frames in range(1, 1000):
        published = ((frames - 1) // 2 + 1 - 2) // 2 + 1
        assert tokens_of(frames, shape().audio.chunk_frames) == max(published, 0), frames


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_tower_asks_for_nothing_that_an_npu_lacks(device: Device, dtype: torch.dtype) -> None:
    tower, mel = weights_on(device, dtype).tower, torch.randn(2, 128, 200)
    with audited() as audit, torch.inference_mode():
        tower.run(mel, torch.tensor([200, 31]))
        tower.run(mel, None)
    audit.expect_clean()
