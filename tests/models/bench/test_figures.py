"""Figures of several runs."""

from __future__ import annotations

from soundmill.models.bench.figures import in_turns, ratios, significant, spread


def test_a_spread_has_the_median_and_both_ends() -> None:
    assert spread([3.0, 1.0, 10.0]) == {"median": 3.0, "least": 1.0, "most": 10.0}


def test_ratios_are_taken_run_by_run() -> None:
    assert ratios([2.0, 30.0], [1.0, 10.0]) == {"median": 2.5, "least": 2.0, "most": 3.0}


def test_digits_that_mean_nothing_are_left_out_of_small_and_large_figures_alike() -> None:
    assert significant(0.000123456789) == 0.00012346
    assert significant(123456789.0) == 123460000.0


def test_sides_take_turns_and_each_begins_as_often() -> None:
    assert list(in_turns(["a", "b"], 3)) == ["a", "b", "b", "a", "a", "b"]
