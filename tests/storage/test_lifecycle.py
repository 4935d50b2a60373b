"""The states, the arrows between them and the backoff."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.storage.attempts import claim
from soundmill.storage.database import Database
from soundmill.storage.decisions import cancel
from soundmill.storage.lifecycle import BACKOFF_CAP_S, FAILED, FINAL, MOVES, WAITING, State, backoff_s

from .jobs import CARD, WORKER, change, end, ending, see, submit, take


def test_every_state_is_waiting_running_or_final() -> None:
    assert set(State) == WAITING | {State.EXECUTING} | FINAL
    assert not WAITING & FINAL
    assert {state for state in State if state.final} == FINAL
    assert FAILED < FINAL


def test_only_a_person_moves_a_final_job_and_nobody_a_completed_one() -> None:
    assert MOVES[State.COMPLETED] == frozenset()
    for state in FAILED:
        assert MOVES[state] <= {State.AVAILABLE, State.SCHEDULED}


def test_every_state_can_be_reached_and_every_waiting_one_can_be_left_for_good() -> None:
    assert {State.SCHEDULED, State.AVAILABLE}.union(*MOVES.values()) == set(State)
    for state in WAITING:
        assert MOVES[state] >= FAILED


@pytest.mark.parametrize("state", [state for state in State if state != State.AVAILABLE])
def test_only_an_available_job_is_claimed(database: Database, state: State) -> None:
    id_ = submit(database)
    change(database, id_, state=state.value)
    with database.write() as connection:
        assert claim(connection, database, [id_], worker=WORKER, card=CARD, lease_s=30) == {}
    assert (see(database, id_).state, see(database, id_).attempt) == (state, 0)


@pytest.mark.parametrize("state", [state for state in State if state != State.EXECUTING])
def test_only_an_executing_job_is_settled(database: Database, state: State) -> None:
    id_ = submit(database)
    claimed = take(database, id_)[id_]
    change(database, id_, state=state.value)

    assert end(database, ending(claimed)).applied == frozenset()
    assert see(database, id_).state == state


@pytest.mark.parametrize("state", list(State))
def test_a_cancel_moves_what_may_be_cancelled(database: Database, state: State) -> None:
    id_ = submit(database)
    change(database, id_, state=state.value)
    with database.write() as connection:
        cancel(connection, database, [id_])

    expected = state if state.final or state == State.EXECUTING else State.CANCELLED
    assert see(database, id_).state == expected
    assert expected == state or expected in MOVES[state]


@given(failures=st.integers(1, 10_000), seed=st.integers())
def test_a_backoff_doubles_up_to_a_cap_with_half_of_it_left_to_chance(failures: int, seed: int) -> None:
    span = min(BACKOFF_CAP_S, 2.0**failures) if failures < 64 else BACKOFF_CAP_S

    assert span / 2 <= backoff_s(failures, random.Random(seed)) <= span
