"""One attempt at a job: claim, heartbeat, settle, hand back, and the fence around them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import func, select

from soundmill.storage.attempts import Made, Settlement, claim, mark_alone
from soundmill.storage.database import Database
from soundmill.storage.decisions import cancel, set_paused
from soundmill.storage.errors import Unstorable
from soundmill.storage.leases import Progress, keep
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import artifacts_of, attempts_of
from soundmill.storage.rescue import rescue_expired
from soundmill.storage.rows import Artifact, Attempt

from .jobs import (
    CARD,
    WORKER,
    Background,
    assert_counters_are_true,
    change,
    end,
    ending,
    field,
    finish,
    running,
    see,
    submit,
    submit_many,
    take,
)

SPEECH = Made(name="audio.wav", role="audio", sha256="a" * 64, size=1234, media_type="audio/wav")


def count(database: Database, table: type[Any]) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def lose(database: Database, id_: str) -> None:
    """Let the lease run out and the reaper come by."""
    change(database, id_, lease_until=1.0)
    with database.write() as connection:
        assert rescue_expired(connection, database) == [id_]


def test_a_claim_takes_the_job_and_starts_a_lease(database: Database) -> None:
    id_ = submit(database, args={"text": "hello"})

    claimed = take(database, id_, lease_s=30)[id_]

    job = see(database, id_)
    assert (job.state, job.attempt, job.worker, job.card) == (State.EXECUTING, 1, WORKER, CARD)
    assert claimed.args == {"text": "hello"}
    assert claimed.lease_until - claimed.started_at == pytest.approx(30, abs=0.1)
    assert_counters_are_true(database)


def test_a_second_message_for_a_job_claims_nothing(database: Database) -> None:
    id_ = submit(database)
    take(database, id_)

    assert take(database, id_, worker="another") == {}
    assert see(database, id_).worker == WORKER


def test_a_group_claims_only_what_may_run(database: Database) -> None:
    free, taken, later = submit(database), submit(database), submit(database, delay_s=60)
    take(database, taken)

    assert set(take(database, free, taken, later, "no such job")) == {free}


def test_a_job_past_its_deadline_is_not_claimed(database: Database) -> None:
    id_ = submit(database, timeout_s=60)
    change(database, id_, deadline_at=1.0)

    assert take(database, id_) == {}


def test_a_paused_queue_gives_no_job_and_asks_for_another_message(database: Database) -> None:
    id_ = submit(database)
    change(database, id_, published_at=5.0)
    with database.write() as connection:
        set_paused(connection, database, "espeak-ng", paused=True)

    assert take(database, id_) == {}
    assert field(database, id_, "published_at") is None

    with database.write() as connection:
        set_paused(connection, database, "espeak-ng", paused=False)
    assert set(take(database, id_)) == {id_}


def test_of_two_workers_that_claim_at_once_one_gets_the_job(postgres: Database) -> None:
    id_ = submit(postgres)
    with postgres.write() as connection:
        first = claim(connection, postgres, [id_], worker="one", card=CARD, lease_s=30)
        second = Background(lambda: take(postgres, id_, worker="two"))
        assert second.waits

    assert set(first) == {id_}
    assert second.result() == {}


def test_a_heartbeat_moves_the_lease_on_and_keeps_the_progress(database: Database) -> None:
    one, two = running(database), running(database)
    change(database, one.id, lease_until=5.0)
    with database.write() as connection:
        kept = keep(
            connection,
            database,
            {(one.id, 1): Progress(share=0.25, made={"frames": 3}), (two.id, 1): Progress()},
            worker=WORKER,
            lease_s=30,
        )

    assert kept.held == {(one.id, 1), (two.id, 1)}
    assert kept.cancelled == frozenset()
    assert see(database, one.id).progress == 0.25
    assert see(database, one.id).metrics == {"frames": 3}
    assert see(database, two.id).metrics is None
    assert see(database, two.id).progress is None
    assert field(database, one.id, "lease_until") > 1000


def test_a_heartbeat_learns_of_a_cancel_and_of_a_lost_lease(database: Database) -> None:
    asked, lost = running(database), running(database)
    with database.write() as connection:
        cancel(connection, database, [asked.id])
    lose(database, lost.id)
    take(database, lost.id, worker="another")

    with database.write() as connection:
        attempts = {(asked.id, 1): Progress(), (lost.id, 1): Progress()}
        kept = keep(connection, database, attempts, worker=WORKER, lease_s=30)

    assert kept.held == {(asked.id, 1)}
    assert kept.cancelled == {(asked.id, 1)}


def test_a_completed_job_has_its_result_its_files_and_the_row_of_its_attempt(database: Database) -> None:
    claimed = running(database)
    settled = end(
        database, ending(claimed, result={"audio_s": 1.5}, metrics={"rtf": 0.1}, artifacts=(SPEECH,))
    )

    assert settled.applied == {claimed.id}
    job = see(database, claimed.id)
    assert (job.state, job.result, job.metrics) == (State.COMPLETED, {"audio_s": 1.5}, {"rtf": 0.1})
    assert job.progress == 1.0
    assert job.finished_at is not None
    with database.read() as connection:
        assert [file.sha256 for file in artifacts_of(connection, claimed.id)] == [SPEECH.sha256]
        [attempt] = attempts_of(connection, claimed.id)
    assert (attempt.attempt, attempt.outcome, attempt.worker) == (1, "completed", WORKER)
    assert_counters_are_true(database)


def test_a_late_settle_is_refused_and_adds_nothing(database: Database) -> None:
    late = running(database)
    lose(database, late.id)
    winner = take(database, late.id, worker="another")[late.id]
    attempts = count(database, Attempt)

    settled = end(database, ending(late, result={"from": "the dead"}, artifacts=(SPEECH,)))

    assert settled.applied == frozenset()
    job = see(database, late.id)
    assert (job.state, job.attempt, job.result) == (State.EXECUTING, winner.attempt, None)
    assert count(database, Artifact) == 0
    assert count(database, Attempt) == attempts


def test_a_second_settle_of_the_same_attempt_is_refused(database: Database) -> None:
    claimed = running(database)
    end(database, ending(claimed, result={"try": 1}))

    assert end(database, ending(claimed, State.DISCARDED, result={"try": 2})).applied == frozenset()
    assert see(database, claimed.id).result == {"try": 1}
    assert_counters_are_true(database)


def test_a_group_settles_those_that_still_hold_their_job(database: Database) -> None:
    late, good = running(database), running(database)
    lose(database, late.id)

    assert end(database, ending(late), ending(good)).applied == {good.id}
    assert see(database, late.id).state == State.AVAILABLE


def test_a_failure_is_charged_and_waits_out_its_backoff(database: Database) -> None:
    claimed = running(database)
    end(
        database,
        ending(claimed, State.RETRYABLE, charge=True, backoff_s=60, error_code="engine", error="it broke"),
    )

    job = see(database, claimed.id)
    assert (job.state, job.failures, job.error_code) == (State.RETRYABLE, 1, "engine")
    assert job.available_at is not None
    assert job.started_at is not None
    assert job.available_at - job.started_at >= 59
    assert job.finished_at is None


def test_a_hand_back_charges_nothing_keeps_the_attempt_and_asks_for_a_message(database: Database) -> None:
    claimed = running(database)
    change(database, claimed.id, published_at=5.0)
    before = see(database, claimed.id)

    end(database, ending(claimed, State.AVAILABLE))

    job = see(database, claimed.id)
    assert (job.state, job.attempt, job.failures, job.crashes) == (State.AVAILABLE, 1, 0, 0)
    assert job.available_at == before.available_at
    assert field(database, claimed.id, "published_at") is None
    assert field(database, claimed.id, "lease_until") is None
    assert take(database, claimed.id)[claimed.id].attempt == 2


def test_a_suspect_that_is_handed_back_stays_one_until_it_ends_by_itself(database: Database) -> None:
    claimed = running(database)
    change(database, claimed.id, suspect=True)
    end(database, ending(claimed, State.AVAILABLE))
    assert field(database, claimed.id, "suspect")

    finish(database, claimed.id, State.RETRYABLE, charge=True)
    assert not field(database, claimed.id, "suspect")


@pytest.mark.parametrize("state", [State.AVAILABLE, State.RETRYABLE])
def test_a_job_that_was_asked_to_stop_is_not_put_back(database: Database, state: State) -> None:
    claimed = running(database)
    child = submit(database, parents=(claimed.id,))
    with database.write() as connection:
        cancel(connection, database, [claimed.id])

    settled = end(database, ending(claimed, state))

    job = see(database, claimed.id)
    assert (job.state, job.error_code) == (State.CANCELLED, "cancelled")
    assert job.finished_at is not None
    assert settled.cancelled == (child,)
    assert_counters_are_true(database)


def test_a_job_whose_cancel_was_acknowledged_is_never_completed(database: Database) -> None:
    claimed = running(database)
    child = submit(database, parents=(claimed.id,))
    with database.write() as connection:
        cancel(connection, database, [claimed.id])

    settled = end(database, ending(claimed, result={"text": "too late"}, artifacts=(SPEECH,)))

    job = see(database, claimed.id)
    assert (job.state, job.error_code, job.result) == (State.CANCELLED, "cancelled", None)
    with database.read() as connection:
        assert [attempt.outcome for attempt in attempts_of(connection, claimed.id)] == ["cancelled"]
        assert artifacts_of(connection, claimed.id) == []
    assert settled.applied == settled.stopped == {claimed.id}
    assert (settled.freed, settled.cancelled) == ((), (child,))
    assert_counters_are_true(database)


def test_marking_an_attempt_alone_is_fenced(database: Database) -> None:
    claimed = running(database)
    with database.write() as connection:
        mark_alone(connection, claimed.id, 2)
    assert not field(database, claimed.id, "alone")

    with database.write() as connection:
        mark_alone(connection, claimed.id, 1)
    assert field(database, claimed.id, "alone")


def bad_values(database: Database) -> list[dict[str, Any]]:
    # SQLite keeps a NUL in a text; PostgreSQL cannot.
    nul = [{"error": "a\x00b"}] if database.dialect == "postgresql" else []
    return [{"result": {"rtf": math.nan}}, {"error": "half \ud800"}, *nul]


def test_a_value_that_cannot_be_kept_harms_only_its_own_row(database: Database) -> None:
    for values in bad_values(database):
        good, bad = running(database), running(database)
        group = [ending(good), ending(bad, **values)]
        with pytest.raises(Unstorable):
            end(database, *group)
        assert see(database, good.id).state == State.EXECUTING

        replayed: list[Settlement] = []
        for settlement in group:
            try:
                end(database, settlement)
            except Unstorable:
                replayed.append(settlement)

        assert [settlement.id for settlement in replayed] == [bad.id]
        assert see(database, good.id).state == State.COMPLETED
        assert see(database, bad.id).state == State.EXECUTING


def test_a_nul_inside_a_result_comes_back_as_it_went_in(database: Database) -> None:
    claimed = running(database)
    end(database, ending(claimed, result={"text": "a\x00b", "snow": "☃"}))

    assert see(database, claimed.id).result == {"text": "a\x00b", "snow": "☃"}


def test_what_a_refused_value_was_is_not_in_the_error(database: Database) -> None:
    claimed = running(database)
    with pytest.raises(Unstorable) as caught:
        end(database, ending(claimed, error="a secret", result={"rtf": math.inf}))

    assert "secret" not in str(caught.value) + str(caught.value.__cause__)


def test_two_attempts_that_made_the_same_bytes_share_them(database: Database) -> None:
    one, two = running(database), running(database)
    end(database, ending(one, artifacts=(SPEECH,)), ending(two, artifacts=(SPEECH,)))

    assert count(database, Artifact) == 2


def test_a_large_group_is_claimed_and_settled(database: Database) -> None:
    ids = submit_many(database, 600)
    claimed = take(database, *ids)
    end(database, *(ending(one) for one in claimed.values()))

    assert_counters_are_true(database)
    assert count(database, Attempt) == 600
