"""Dividing a card's memory."""

from __future__ import annotations

import pytest

from soundmill.models.engine.division import Claim, divide
from soundmill.models.errors import ModelUnavailable

MIB, GIB = 1024**2, 1024**3


def slots(
    claims: dict[str, Claim], usable: int = 32 * GIB, workspace: int = GIB, most: int = 64
) -> dict[str, int]:
    granted = divide(claims, usable=usable, workspace=workspace, most=most)
    return {name: grant.slots for name, grant in granted.items()}


def test_what_is_left_is_divided_equally_unless_the_operator_says_otherwise() -> None:
    claims = {"a": Claim(bytes_per_slot=GIB), "b": Claim(bytes_per_slot=GIB)}
    left = 32 - 1.6 - 1  # a twentieth is kept back, and the workspace
    assert slots(claims) == {"a": int(left / 2), "b": int(left / 2)}
    claims["a"] = Claim(bytes_per_slot=GIB, share=0.75)
    assert slots(claims) == {"a": int(0.75 * left), "b": int(0.25 * left)}


def test_no_model_gets_more_slots_than_make_it_faster() -> None:
    assert slots({"a": Claim(bytes_per_slot=MIB)}, most=8) == {"a": 8}


def test_the_operators_number_is_not_questioned() -> None:
    assert slots({"a": Claim(bytes_per_slot=GIB, slots=100)}) == {"a": 100}


def test_the_reasons_are_told() -> None:
    grants = divide(
        {
            "fit": Claim(bytes_per_slot=GIB),
            "many": Claim(bytes_per_slot=MIB),
            "told": Claim(bytes_per_slot=MIB, slots=3),
        },
        usable=32 * GIB, workspace=0, most=64,
    )  # fmt: skip
    assert "fit into" in grants["fit"].reason
    assert "more would not make it faster" in grants["many"].reason
    assert grants["told"].reason == "the operator's number"


def test_a_part_without_room_for_a_slot_says_what_to_do() -> None:
    with pytest.raises(ModelUnavailable, match=r"a: one slot takes 1,024 MiB, but .* serve fewer models"):
        slots({"a": Claim(bytes_per_slot=GIB)}, usable=GIB)


def test_shares_beyond_the_whole_are_refused() -> None:
    claims = {name: Claim(bytes_per_slot=MIB, share=0.6) for name in "ab"}
    with pytest.raises(ModelUnavailable, match=r"the shares of a, b add up to 1\.2"):
        slots(claims)
