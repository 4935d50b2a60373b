"""The question to a suspect card, asked by a process of its own."""

from __future__ import annotations

import os

import pytest

from soundmill.models.device import Card
from soundmill.worker import card_check
from soundmill.worker.card_check import CardCheck

from .running import until


@pytest.mark.slow
def test_a_card_that_is_there_answers_and_one_that_is_not_does_not() -> None:
    pytest.importorskip("torch")
    checks = {name: CardCheck(Card.parse(name), os.environ) for name in ("cpu:0", "npu:9")}
    answers: dict[str, bool | None] = {}

    def look() -> bool:
        answers.update({name: check.answer() for name, check in checks.items() if answers.get(name) is None})
        return None not in answers.values()

    until(look, 90)
    assert answers == {"cpu:0": True, "npu:9": False}


def test_a_card_that_does_not_answer_in_time_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_check, "LIMIT_S", 0.0)
    check = CardCheck(Card("cpu", 0), os.environ)
    assert check.answer() is False
    assert check._process.poll() is not None
