"""Several cards at once, each in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from soundmill.models.bench.cards import measure_cards, together
from soundmill.models.bench.summary import summary
from soundmill.models.device import Card
from soundmill.models.errors import ModelUnavailable

from .conftest import PlanOf

CARDS = [Card("cpu", 0), Card("cpu", 1)]


def test_cards_are_measured_at_the_same_time_and_added_up(plan_of: PlanOf) -> None:
    told: list[str] = []
    plan = plan_of("acestep-captioner", random_weights=True, slots=(1,), runs=1)
    document = measure_cards(plan, CARDS, tell=told.append)
    assert [one["stamp"]["card"] for one in document["cards"]] == ["cpu:0", "cpu:1"]
    assert document["failures"] == {}
    assert "2 cards have loaded and begin" in told
    [total] = document["together"]
    assert total["cards"] == 2
    rates = [one["cells"][0]["audio_s_per_s"]["median"] for one in document["cards"]]
    assert total["audio_s_per_s"] == pytest.approx(sum(rates), rel=1e-3)
    assert any(line.startswith("together, 2 cards") for line in summary(document))


def test_a_card_that_cannot_be_measured_tells_why(plan_of: PlanOf, tmp_path: Path) -> None:
    with pytest.raises(
        ModelUnavailable, match=r"cpu:0: .*nowhere is no folder.*; cpu:1: .*nowhere is no folder"
    ):
        measure_cards(plan_of("csm-1b", checkpoint=tmp_path / "nowhere"), CARDS)


def test_only_loads_that_all_cards_measured_are_added_up() -> None:
    def document(*loads: tuple[int, float]) -> dict[str, object]:
        cells = [{"load": {"slots": slots}, "audio_s_per_s": {"median": rate}} for slots, rate in loads]
        return {"cells": cells}

    assert together([document((1, 2.0), (8, 5.0)), document((1, 3.0))]) == [
        {"load": {"slots": 1}, "cards": 2, "audio_s_per_s": 5.0}
    ]
    assert together([{"components": []}]) == []
