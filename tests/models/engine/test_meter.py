"""What an engine counts of its own work."""

from __future__ import annotations

import pytest

from soundmill.models.device import Device
from soundmill.models.histogram import Histogram
from soundmill.models.place import ModelOptions

from ...plugins.toy import STOP, Babbler, Counter, Prompt
from .conftest import EngineMaker


def test_a_histogram_counts_what_falls_between_its_bounds() -> None:
    histogram = Histogram((1, 2.5))
    for value in (0, 1, 1.5, 2.5, 3):
        histogram.add(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 8


def test_steps_calls_and_time_are_counted_by_model(device: Device, make_engine: EngineMaker) -> None:
    engine = make_engine(late=False)
    engine.add_slots("toy", Babbler(device), options=ModelOptions(slots=4), decoder=Counter())
    engine.open()
    prompt = Prompt(ids=(1, 2, 3), seed=1, never=(STOP,))
    requests = [engine.generate("toy", prompt, positions=3, max_steps=20) for _ in range(3)]
    for request in requests:
        request.result(30)
    toy, decoder = engine.meter.lanes["toy"], engine.meter.lanes["toy/decoder"]
    assert toy.sizes.total == 60  # each row of each step
    assert sum(toy.sizes.counts) == sum(toy.padding.counts) <= 60
    assert sum(decoder.sizes.counts) >= 1
    assert decoder.sizes.total >= 3
    assert toy.busy_s > 0


def test_the_memory_of_the_device_is_asked_between_two_turns(make_engine: EngineMaker) -> None:
    engine = make_engine()
    engine.weigh()
    engine.weigh()
    assert engine.call(lambda: 1).result(30) == 1  # comes after it
    memory = engine.meter.memory
    assert memory is not None
    assert memory.total > 0


def test_a_device_that_does_not_tell_its_memory_harms_nobody(
    device: Device, make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise RuntimeError("the driver is gone")

    engine = make_engine()
    monkeypatch.setattr(device, "memory", refuse)
    engine.weigh()
    assert engine.call(lambda: 1).result(30) == 1
    assert engine.meter.memory is None
