"""The ids of new jobs."""

from __future__ import annotations

import time

import pytest
from ulid import ULID

from soundmill.producer.ids import new_ids


def test_ids_are_ulids_of_this_moment_in_ascending_order() -> None:
    before = time.time()
    made = new_ids(5000)

    assert made == sorted(set(made))
    assert {str(ULID.from_str(id_)) for id_ in made} == set(made)
    assert {ULID.from_str(id_).timestamp for id_ in made} == {ULID.from_str(made[0]).timestamp}
    assert before - 0.01 <= ULID.from_str(made[0]).timestamp <= time.time() + 0.01


def test_the_last_digits_count_by_one_and_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundmill.producer.ids.secrets.randbits", lambda bits: 2**bits - 1)

    numbers = [int(ULID.from_str(id_)) for id_ in new_ids(1030)]

    assert numbers == list(range(numbers[0], numbers[0] + 1030))


def test_ids_of_several_calls_do_not_meet() -> None:
    assert len({id_ for _ in range(200) for id_ in new_ids(20)}) == 4000
