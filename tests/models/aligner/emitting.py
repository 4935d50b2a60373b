"""Emissions without an engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from soundmill.models.aligner.emission import EmissionModel, Heard
from soundmill.models.aligner.windows import Window, cut_windows
from soundmill.models.engine.ports import Item

Sound = npt.NDArray[np.float32]
Items = list[Item[Window, Heard]]


def items_of(sounds: Iterable[Sound]) -> Items:
    """All windows of all recordings."""
    return [Item(payload=window) for sound in sounds for window in cut_windows([sound])]


def run_all(
    model: EmissionModel, items: Sequence[Item[Any, Any]], time_budget_s: float = 0.05
) -> list[list[int]]:
    """Offer what is not done, as the engine does; which items each call finished."""
    calls = []
    while open_ := [index for index, item in enumerate(items) if not item.done]:
        model.run([items[index] for index in open_], time_budget_s)
        calls.append([index for index in open_ if items[index].done])
        assert calls[-1]
    return calls


def emissions_of(model: EmissionModel, sound: Sound) -> npt.NDArray[np.float32]:
    items = items_of([sound])
    run_all(model, items)
    return np.concatenate([item.result.emissions for item in items if item.result is not None])
