"""What can be measured, and in which order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from soundmill.models.bench import Plan
from soundmill.models.bench.plan import Load
from soundmill.models.errors import InputError


def test_every_combination_is_a_load_and_the_smallest_come_first() -> None:
    plan = Plan(model="m", slots=(1, 8), frames=(32, 64), texts=("short", "long"))
    assert [(load.text, load.frames, load.slots) for load in plan.loads()] == [
        ("short", 32, 1), ("short", 32, 8), ("short", 64, 1), ("short", 64, 8),
        ("long", 32, 1), ("long", 32, 8), ("long", 64, 1), ("long", 64, 8),
    ]  # fmt: skip


def test_loads_suit_the_device_unless_they_are_given() -> None:
    plan = Plan(model="m")
    assert plan.suited(processor=True, stepped=True).slots == (1, 8)
    assert plan.suited(processor=False, stepped=True).slots == (1, 8, 32)
    given = Plan(model="m", slots=(3,), frames=(7,)).suited(processor=True, stepped=True)
    assert list(given.loads()) == [Load(slots=3, text="medium", frames=7)]


def test_a_model_without_steps_has_loads_without_frames_and_refuses_them() -> None:
    assert [load.frames for load in Plan(model="m").suited(processor=True, stepped=False).loads()] == [
        None,
        None,
    ]
    with pytest.raises(InputError, match="choose how long that is by --text"):
        Plan(model="m", frames=(4,)).suited(processor=True, stepped=False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"slots": (0,)}, "slots: 0 is too few"),
        ({"frames": (8, -1)}, "frames: -1 is too few"),
        ({"runs": 0}, "runs: 0 is too few"),
        ({"warmup": -1}, "warmup: -1 is too few"),
        ({"texts": ("tall",)}, "no 'tall'; there are short, medium, long"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_its_name(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Plan(model="m", **wrong).checked()


def test_a_plan_survives_the_way_to_another_process() -> None:
    plan = Plan(
        model="m", checkpoint=Path("/srv/m"), slots=(1, 2), extra={"a": "b"}, fields={"short": {"text": "x"}}
    )
    assert Plan.of_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_the_model_gets_slots_for_the_largest_load() -> None:
    assert Plan(model="m", slots=(1, 32, 8)).options.slots == 32
