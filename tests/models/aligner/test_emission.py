from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config

from soundmill.models.aligner.checkpoint import Checkpoint, random_checkpoint
from soundmill.models.aligner.emission import MOST_PADDING, EmissionModel
from soundmill.models.aligner.windows import LONGEST, WINDOW, Window
from soundmill.models.device import Device
from soundmill.models.engine.ports import Item
from soundmill.models.errors import ModelError

from ..dispatch_audit import audited
from ..fake_npu import in_fake_npu
from .emitting import emissions_of, items_of, run_all
from .golden import CHECKPOINT, arrays, recording


@pytest.mark.parametrize(("case", "tolerance"), [("em0", 1e-4), ("em1", 2e-2)])
def test_emissions_are_those_of_the_reference(model: EmissionModel, case: str, tolerance: float) -> None:
    expected = arrays()[f"{case}_logprobs"].astype(np.float32)  # em1 is stored in float16
    found = emissions_of(model, recording(case))
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < tolerance


def test_a_recording_is_heard_alike_alone_and_among_others(model: EmissionModel) -> None:
    sound = recording("em0")
    sounds = [sound, sound[3_000:67_001], sound[1_234:70_000], sound[:64_500]]
    items = items_of(sounds)
    model.quota = 1e9  # all fit into a call
    assert run_all(model, items, 1.0) == [[0, 1, 2, 3]]
    for item, own in zip(items, sounds, strict=True):
        assert item.result is not None
        assert item.result.together == 4
        assert np.abs(item.result.emissions - emissions_of(model, own)).max() < 1e-4


def test_less_than_a_quarter_of_a_call_is_padding(model: EmissionModel) -> None:
    rng = np.random.default_rng(0)
    items = items_of(np.zeros(length, np.float32) for length in rng.integers(400, 60_000, 60))
    model.quota = 1e9
    calls = run_all(model, items, 1.0)
    assert len(calls) < 30
    for call in calls:
        lengths = [len(items[index].payload.samples) for index in call]
        assert len(lengths) * max(lengths) <= MOST_PADDING * sum(lengths)


SHORT = LONGEST // 4


def test_calls_grow_while_they_take_less_than_their_time(model: EmissionModel) -> None:
    items = items_of(np.zeros(SHORT, np.float32) for _ in range(32))
    calls = run_all(model, items, 3_600.0)
    assert [len(call) for call in calls] == [4, 8, 16, 4]
    assert calls[0] == [0, 1, 2, 3]  # the oldest first


def test_calls_shrink_when_they_take_more_than_their_time(model: EmissionModel) -> None:
    """But not below what a window of a long recording has."""
    items = items_of(np.zeros(SHORT, np.float32) for _ in range(32))
    model.quota = 16.0 * SHORT
    calls = run_all(model, items, 1e-9)
    assert [len(call) for call in calls] == [16, 8, 4, 4]


def test_a_quick_call_with_little_to_do_does_not_shrink_the_next(model: EmissionModel) -> None:
    model.quota = 1e9
    run_all(model, items_of([np.zeros(16_000, np.float32)]), 3_600.0)
    assert model.quota == 1e9


def test_a_short_recording_is_not_kept_waiting_by_the_hours_of_another(model: EmissionModel) -> None:
    long = Window(samples=np.zeros(LONGEST, np.float32), first=100, end=1600)
    short = Window(samples=np.zeros(8_000, np.float32), first=0, end=24)
    items = [Item[Any, Any](payload=window) for window in (long, long, long, short)]
    for _ in range(2):
        model.quota = LONGEST  # one long window at a time
        model.run([item for item in items if not item.done], 0.05)
    assert items[3].done
    assert items[0].done
    assert not items[1].done


def test_numbers_that_are_none_fail_their_own_recording_only(model: EmissionModel) -> None:
    fine, broken = items_of([recording("em0")[:16_000], np.full(16_000, np.nan, np.float32)])
    model.quota = 1e9
    model.run([fine, broken], 1.0)
    assert fine.error is None
    assert isinstance(broken.error, ModelError)


def test_a_model_of_random_weights_has_the_same_letters_each_time(device: Device) -> None:
    config = Wav2Vec2Config.from_pretrained(CHECKPOINT)
    sound = recording("em0")[:16_000]
    first, second = (EmissionModel(random_checkpoint(config, seed=7), device) for _ in range(2))
    assert np.array_equal(emissions_of(first, sound), emissions_of(second, sound))


def test_every_operation_has_a_kernel_on_an_npu(checkpoint: Checkpoint, device: Device) -> None:
    model = EmissionModel(checkpoint, device)
    sound = recording("em0")
    items = items_of([sound[:20_000], sound[:18_000], np.tile(sound, 7)[: WINDOW + 1]])
    model.quota = 1e9
    with audited() as audit:
        run_all(model, items, 1.0)
    audit.expect_clean(reads=True)  # transformers asks once a call whether its mask masks anything
    assert audit.reads.total() <= 2


@in_fake_npu(cards=2, memory_mib=1024)
def test_both_fake_cards_hear_what_the_processor_hears() -> None:
    from soundmill.models.aligner.checkpoint import load_checkpoint

    from ..fake_npu import same_as_cpu

    def hear(device: Device) -> list[torch.Tensor]:
        device.bind_thread()
        model = EmissionModel(load_checkpoint(CHECKPOINT), device)
        sound = recording("em0")
        items = items_of([sound, sound[:70_000], np.tile(sound, 7)[: WINDOW + 16_000]])
        model.quota = 1e9
        run_all(model, items, 3_600.0)  # the same calls on every card, however slow
        return [torch.from_numpy(item.result.emissions) for item in items if item.result is not None]

    same_as_cpu(hear)
