"""An attempt as its handler sees it, and as those do who stop it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from soundmill.models.errors import Cancelled, DeadlineExceeded, Interrupted, LeaseLost, ShuttingDown
from soundmill.storage.leases import Progress
from soundmill.worker.attempt import Attempt, Attempts
from soundmill.worker.pulse import Pulse

from .test_outcomes import job


def attempt(pulse: Pulse | None = None, step_s: float = 60.0, **changes: Any) -> Attempt:
    return Attempt(job(**changes), pulse or Pulse(None), step_limit_s=step_s, load_limit_s=600.0)


def watched_checkpoint(one: Attempt) -> None:
    with one.watched():
        one.checkpoint()


def test_a_checkpoint_lets_a_healthy_attempt_go_on_and_keeps_its_progress() -> None:
    one = attempt()
    with one.watched():
        one.checkpoint(0.25)
        one.checkpoint()
        assert one.progress.share == 0.25
        one.checkpoint(7.0)
        assert one.progress.share == 1.0


def test_a_deadline_counts_from_the_claim_on_our_own_clock() -> None:
    # The row's clock may be of another century than ours.
    watched_checkpoint(attempt(started_at=1.0, deadline_at=1.0 + 60))
    with pytest.raises(DeadlineExceeded):
        watched_checkpoint(attempt(started_at=1e12, deadline_at=1e12 - 1))


@pytest.mark.parametrize(
    ("reasons", "raised"),
    [
        ([Cancelled, ShuttingDown], Cancelled),
        ([ShuttingDown, Cancelled], ShuttingDown),
        ([Cancelled, LeaseLost], LeaseLost),
        ([LeaseLost, Cancelled], LeaseLost),
    ],
)
def test_the_first_reason_stays_unless_the_lease_is_lost(
    reasons: list[type[Interrupted]], raised: type[Interrupted]
) -> None:
    one = attempt()
    for reason in reasons:
        one.stop(reason())
    with pytest.raises(raised):
        watched_checkpoint(one)


def test_a_reason_to_stop_comes_before_the_deadline() -> None:
    one = attempt(started_at=5.0, deadline_at=4.0)
    one.stop(Cancelled())
    with pytest.raises(Cancelled):
        one.raise_if_stopped()


def test_phases_are_timed_and_those_of_one_name_add_up() -> None:
    one = attempt()
    with one.watched():
        for _ in range(2):
            with one.phase("generation"):
                time.sleep(0.01)
        with pytest.raises(ZeroDivisionError), one.phase("decode"):
            raise ZeroDivisionError
    assert one.seconds["generation"] >= 0.02
    assert "decode" in one.seconds


def test_a_phase_that_nobody_knows_is_an_error_with_the_names_of_those_there_are() -> None:
    with pytest.raises(ValueError, match="'warmup' is no phase; there are decode, generation"):
        attempt().phase("warmup").__enter__()


def test_loading_may_be_silent_for_longer_than_a_step() -> None:
    pulse = Pulse(None)
    one = attempt(pulse, step_s=0.01)
    with one.watched():
        with one.phase("load"):
            time.sleep(0.05)
            assert not pulse.stuck(one.key)
        with one.phase("generation"):
            time.sleep(0.05)
            assert one.stuck
            one.checkpoint()
            assert not pulse.stuck(one.key)


def test_only_attempts_that_move_keep_their_leases() -> None:
    attempts, pulse = Attempts(), Pulse(None)
    moving, silent = attempt(pulse, id="moving"), attempt(pulse, step_s=0.01, id="silent")
    with attempts.holding(moving), attempts.holding(silent), moving.watched(), silent.watched():
        moving.checkpoint(0.5)
        time.sleep(0.05)
        assert attempts.renewable() == {("moving", 1): Progress(share=0.5)}
        assert len(attempts) == 2
    assert len(attempts) == 0


def test_a_stop_meets_the_attempt_of_that_number_only() -> None:
    attempts = Attempts()
    one = attempt(id="job", attempt=2)
    with attempts.holding(one):
        attempts.cancel([("job", 1), ("other", 2)])
        one.raise_if_stopped()
        attempts.cancel([("job", 2)])
        with pytest.raises(Cancelled):
            one.raise_if_stopped()


def test_a_lost_lease_and_a_hand_back_by_id_stop_an_attempt() -> None:
    attempts = Attempts()
    lost, returned = attempt(id="lost"), attempt(id="returned")
    with attempts.holding(lost), attempts.holding(returned):
        attempts.lose([lost.key])
        attempts.hand_back(["returned", "unknown"])
        with pytest.raises(LeaseLost):
            lost.raise_if_stopped()
        with pytest.raises(ShuttingDown):
            returned.raise_if_stopped()


def test_a_closing_process_hands_back_what_it_holds_and_what_it_is_still_given() -> None:
    attempts = Attempts()
    early, late = attempt(id="early"), attempt(id="late")
    with attempts.holding(early):
        attempts.hand_back_all()
        with attempts.holding(late), pytest.raises(ShuttingDown):
            late.raise_if_stopped()
        with pytest.raises(ShuttingDown):
            early.raise_if_stopped()
