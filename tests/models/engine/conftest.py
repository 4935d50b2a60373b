"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from soundmill.models.device import Device, open_device
from soundmill.models.engine.engine import CardEngine

EngineMaker = Callable[..., CardEngine]


@pytest.fixture
def device() -> Device:
    return open_device("cpu", threads=1)


@pytest.fixture
def make_engine(device: Device) -> Iterator[EngineMaker]:
    """Makes engines that are closed after the test."""
    made: list[CardEngine] = []

    def make(**options: Any) -> CardEngine:
        made.append(CardEngine(device, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
