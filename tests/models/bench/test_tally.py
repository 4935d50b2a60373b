"""What is told of runs whose outcome is known."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from soundmill.models.bench.footprint import Footprint
from soundmill.models.bench.plan import Load, Plan
from soundmill.models.bench.subject import Answer
from soundmill.models.bench.tally import NothingMade, Turn, cells_of, figures_of, partly_failed, take_turn
from soundmill.models.errors import CardFailed, InputError

LOAD = Load(slots=2, text="short", frames=25)


def answer(**more: Any) -> Answer:
    usual: dict[str, Any] = {
        "frames": 25, "audio_s": 2.0, "empty": False, "first_s": 0.25, "step_ms": 30.0, "batch_size": 2, "bucket": 2,
    }  # fmt: skip
    return Answer(**usual | more)


def figures(*turns: Turn) -> dict[str, Any]:
    return figures_of(LOAD, turns, unit="frames", floor_ms=10.0)


def test_figures_are_those_of_the_runs() -> None:
    told = figures(
        Turn(seconds=1.0, answers=[answer(), answer()]),
        Turn(seconds=4.0, answers=[answer(first_s=0.5), answer(first_s=1.0)]),
    )
    assert told["audio_s_per_s"] == {"median": 2.5, "least": 1.0, "most": 4.0}
    assert told["real_time_factor"] == {"median": 1.25, "least": 0.5, "most": 2.0}  # of one row, not of all
    assert told["frames_per_s"]["most"] == 50.0
    assert told["files_per_s"]["least"] == 0.5
    assert told["first_s"] == {"median": 0.5, "least": 0.25, "most": 0.75}
    assert told["step_ms"]["median"] == 30.0
    assert told["times_the_floor"] == 3.0
    assert told["load"] == {"slots": 2, "text": "short", "frames": 25, "requests": 2}
    assert (told["failed"], told["empty"], told["batch_size"], told["bucket"]) == (0, 0, 2, 2)
    assert not partly_failed([told])


def test_what_is_empty_or_failed_is_counted_and_adds_nothing_to_the_speed() -> None:
    turn = Turn(
        seconds=1.0,
        answers=[answer(), answer(empty=True, frames=0, audio_s=9.0)],
        failures=[InputError("text: too long")],
    )
    told = figures(turn)
    assert told["audio_s_per_s"]["median"] == 2.0
    assert (told["failed"], told["empty"], told["failure"]) == (1, 1, "text: too long")
    assert partly_failed([told])


def test_a_run_that_gave_nothing_is_refused_though_others_gave_something() -> None:
    with pytest.raises(NothingMade, match="2 requests gave nothing"):
        figures(Turn(seconds=1.0, answers=[answer()]), Turn(seconds=0.001, answers=[answer(empty=True)] * 2))


def test_a_run_of_failures_is_refused_with_the_first_of_them() -> None:
    with pytest.raises(NothingMade, match="all 1 requests failed; the first: text: too long"):
        figures(Turn(seconds=1.0, answers=[], failures=[InputError("text: too long")]))


def test_a_model_without_steps_or_audio_has_no_such_figures() -> None:
    told = figures(Turn(seconds=1.0, answers=[answer(audio_s=0.0, step_ms=None, first_s=None, frames=0)]))
    assert told["real_time_factor"] is None
    assert told["step_ms"] is None
    assert told["first_s"] is None
    assert told["frames_per_s"] is None
    assert told["times_the_floor"] is None


def test_all_requests_of_a_run_are_under_way_at_once() -> None:
    together = threading.Barrier(3, timeout=30)

    def perform(number: int) -> Answer:
        together.wait()
        return answer(frames=number)

    assert sorted(one.frames for one in take_turn(perform, 3).answers) == [0, 1, 2]


def test_a_request_that_fails_by_itself_harms_no_other() -> None:
    def perform(number: int) -> Answer:
        if number == 1:
            raise InputError("this one")
        return answer()

    turn = take_turn(perform, 3)
    assert (len(turn.answers), [str(error) for error in turn.failures]) == (2, ["this one"])


def test_a_card_that_fails_ends_the_measurement() -> None:
    def perform(number: int) -> Answer:
        raise CardFailed("npu:0: gone")

    with pytest.raises(CardFailed, match="npu:0: gone"):
        take_turn(perform, 2)


def test_warm_up_is_not_counted_and_a_refused_load_stands_beside_the_measured_ones() -> None:
    plan = Plan(model="m", slots=(1, 2), warmup=2, runs=3)
    taken: list[int] = []

    def turn(load: Load) -> Turn:
        taken.append(load.slots)
        return Turn(seconds=1.0, answers=[answer(empty=load.slots == 2)])

    found = cells_of(
        plan, turn, unit="frames", footprint=Footprint(None), floor_ms=None, tell=lambda words: None
    )
    assert taken == [1] * 5 + [2] * 5
    assert [cell["load"]["slots"] for cell in found["cells"]] == [1]
    assert [refused["load"]["slots"] for refused in found["refused"]] == [2]
    assert found["cells"][0]["peak_bytes"] > 0


def test_nothing_is_told_where_no_load_gave_anything() -> None:
    with pytest.raises(NothingMade, match="says nothing about speed"):
        cells_of(
            Plan(model="m", slots=(1,)),
            lambda load: Turn(seconds=1.0, answers=[answer(empty=True)]),
            unit="frames", footprint=Footprint(None), floor_ms=None, tell=lambda words: None,
        )  # fmt: skip
