"""Public priorities and the steps of the broker."""

from __future__ import annotations

import pytest

from soundmill.storage.priorities import DEFAULT, HIGHEST, LOWEST, STEPS, priorities_of, step_of


def test_ten_priorities_share_four_steps_and_keep_their_order() -> None:
    assert [step_of(priority) for priority in range(HIGHEST, LOWEST - 1, -1)] == [
        0,
        0,
        3,
        3,
        3,
        6,
        6,
        6,
        9,
        9,
    ]
    assert step_of(DEFAULT) == 6
    assert {step_of(priority) for priority in range(10)} == set(STEPS)


@pytest.mark.parametrize("priority", [-1, 10])
def test_other_priorities_are_refused(priority: int) -> None:
    with pytest.raises(ValueError, match=f"priority {priority} is not between 0 and 9"):
        step_of(priority)


def test_every_priority_is_of_exactly_one_step() -> None:
    assert {step: priorities_of(step) for step in STEPS} == {0: (8, 9), 3: (5, 6, 7), 6: (2, 3, 4), 9: (0, 1)}
