"""Public priorities and the steps of the broker."""

from __future__ import annotations

import pytest

from soundmill.storage.priorities import DEFAULT, HIGHEST, LOWEST, STEPS, step_of


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
