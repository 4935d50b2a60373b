"""What brings a job on when a process, a message or a moment was lost."""

from __future__ import annotations

import time
from typing import Any

import pytest

from soundmill.storage.attempts import mark_alone
from soundmill.storage.database import Database
from soundmill.storage.decisions import cancel, retry
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import attempts_of
from soundmill.storage.rescue import (
    LONE_KILLS,
    count_published,
    discard_late,
    oldest_published,
    published_models,
    rescue_expired,
    rescue_worker,
    wake_due,
)

from .jobs import (
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
    states,
    submit,
    submit_many,
    take,
)

LONG_AGO = 1.0
MODEL = "espeak-ng"


def expired(database: Database) -> list[str]:
    with database.write() as connection:
        return rescue_expired(connection, database)


def died(database: Database, *, crashed: bool, worker: str = WORKER, max_crashes: int = 2) -> list[str]:
    with database.write() as connection:
        return rescue_worker(connection, database, worker=worker, crashed=crashed, max_crashes=max_crashes)


def outcomes(database: Database, id_: str) -> list[tuple[int, str, str | None]]:
    with database.read() as connection:
        return [(row.attempt, row.outcome, row.error_code) for row in attempts_of(connection, id_)]


def running_alone(database: Database, **changes: Any) -> str:
    claimed = running(database, **changes)
    with database.write() as connection:
        mark_alone(connection, claimed.id, claimed.attempt)
    return claimed.id


# --- leases and workers


def test_an_expired_lease_returns_the_job_uncharged_as_a_suspect(database: Database) -> None:
    lost, held = running(database).id, running(database).id
    change(database, lost, lease_until=LONG_AGO, published_at=LONG_AGO)

    assert expired(database) == [lost]

    job = see(database, lost)
    assert (job.state, job.attempt, job.failures, job.crashes) == (State.AVAILABLE, 1, 0, 0)
    assert field(database, lost, "suspect")
    assert field(database, lost, "published_at") is None
    assert outcomes(database, lost) == [(1, "lost", None)]
    assert see(database, held).state == State.EXECUTING
    assert expired(database) == []
    assert_counters_are_true(database)


def test_an_expired_lease_is_not_charged_even_if_the_job_was_alone(database: Database) -> None:
    id_ = running_alone(database)
    change(database, id_, lease_until=LONG_AGO)
    expired(database)

    assert see(database, id_).crashes == 0
    assert not field(database, id_, "alone")


def test_a_crash_makes_suspects_of_all_and_charges_nobody_who_was_not_alone(database: Database) -> None:
    ids = [running(database).id for _ in range(3)]
    other = running(database, worker="another").id

    assert set(died(database, crashed=True)) == set(ids)

    assert states(database, ids) == [State.AVAILABLE] * 3
    assert [see(database, id_).crashes for id_ in ids] == [0, 0, 0]
    assert all(field(database, id_, "suspect") for id_ in ids)
    assert outcomes(database, ids[0]) == [(1, "crashed", "worker_crashed")]
    assert see(database, other).state == State.EXECUTING
    assert_counters_are_true(database)


def test_a_kill_from_outside_blames_nobody(database: Database) -> None:
    id_ = running_alone(database)

    died(database, crashed=False)

    assert see(database, id_).crashes == 0
    assert not field(database, id_, "suspect")
    assert outcomes(database, id_) == [(1, "lost", None)]


def test_a_job_that_was_alone_when_its_worker_was_killed_waits_ever_longer_uncharged(
    database: Database,
) -> None:
    """It may have killed the worker itself; in the meantime the others get done."""
    waits = []
    id_ = running_alone(database)
    for _ in range(3):
        died(database, crashed=False)
        job = see(database, id_)
        assert (job.state, job.crashes, job.failures) == (State.RETRYABLE, 0, 0)
        waits.append(field(database, id_, "available_at") - time.time())
        change(database, id_, state=State.AVAILABLE.value)
        take(database, id_)
        change(database, id_, alone=True)
    assert waits == sorted(waits)
    assert waits[0] > 0.5
    assert waits[2] > 3


def test_a_job_that_is_killed_alone_for_the_twentieth_time_is_given_up(database: Database) -> None:
    id_ = running_alone(database)
    change(database, id_, kills=LONE_KILLS - 1)
    died(database, crashed=False)
    job = see(database, id_)
    assert (job.state, job.error_code, job.crashes) == (State.DISCARDED, "worker_crashed", 0)


def test_a_lease_that_runs_out_alone_counts_as_a_kill_since_it_may_take_the_host_along(
    database: Database,
) -> None:
    id_ = running_alone(database)
    change(database, id_, lease_until=LONG_AGO)
    expired(database)
    assert (see(database, id_).state, field(database, id_, "kills")) == (State.AVAILABLE, 1)

    take(database, id_)
    change(database, id_, alone=True, lease_until=LONG_AGO, kills=LONE_KILLS - 1)
    child = submit(database, parents=(id_,))
    assert expired(database) == [id_]
    job = see(database, id_)
    assert (job.state, job.error_code, job.crashes) == (State.DISCARDED, "worker_crashed", 0)
    assert "killed 20 times" in (job.error or "")
    assert see(database, child).error_code == "parent_failed"
    assert_counters_are_true(database)


def test_only_kills_of_a_job_that_was_alone_count(database: Database) -> None:
    """A job that was handed back by twenty deploys, or lost among others, is not one kill from its end."""
    id_ = running(database).id
    change(database, id_, attempt=3 * LONE_KILLS)
    died(database, crashed=False)
    assert (see(database, id_).state, field(database, id_, "kills")) == (State.AVAILABLE, 0)
    take(database, id_)
    change(database, id_, alone=True)
    died(database, crashed=False)
    assert (see(database, id_).state, field(database, id_, "kills")) == (State.RETRYABLE, 1)


def test_a_retry_begins_with_no_kills(database: Database) -> None:
    id_ = running_alone(database)
    change(database, id_, kills=LONE_KILLS - 1)
    died(database, crashed=False)
    with database.write() as connection:
        assert retry(connection, database, [id_]) == [id_]
    assert field(database, id_, "kills") == 0


def test_the_submitter_of_a_job_that_crashed_its_worker_is_told_how(database: Database) -> None:
    id_ = running_alone(database)
    with database.write() as connection:
        rescue_worker(
            connection, database, worker=WORKER, crashed=True, max_crashes=1, cause="it died of SIGSEGV"
        )
    assert see(database, id_).error == (
        "the worker's process died each time it ran this job alone: it died of SIGSEGV; "
        "check the input, then `soundmill jobs retry` it"
    )


def test_a_worker_that_is_killed_again_and_again_leaves_suspects_behind(database: Database) -> None:
    id_ = running(database).id
    with database.write() as connection:
        rescue_worker(connection, database, worker=WORKER, crashed=False, suspects=True, max_crashes=2)
    assert see(database, id_).state == State.AVAILABLE
    assert field(database, id_, "suspect") is True
    assert see(database, id_).crashes == 0


def test_a_job_that_was_alone_is_charged_and_at_last_discarded(database: Database) -> None:
    id_ = running_alone(database)
    child = submit(database, parents=(id_,))
    died(database, crashed=True)
    assert (see(database, id_).state, see(database, id_).crashes) == (State.AVAILABLE, 1)

    take(database, id_)
    with database.write() as connection:
        mark_alone(connection, id_, 2)
    assert died(database, crashed=True) == [id_]

    job = see(database, id_)
    assert (job.state, job.crashes, job.error_code) == (State.DISCARDED, 2, "worker_crashed")
    assert see(database, child).error_code == "parent_failed"
    assert outcomes(database, id_) == [(1, "crashed", "worker_crashed"), (2, "crashed", "worker_crashed")]
    assert_counters_are_true(database)


@pytest.mark.parametrize("alone", [False, True])
def test_a_lost_job_that_was_asked_to_stop_is_cancelled_with_its_children(
    database: Database, alone: bool
) -> None:
    id_ = running_alone(database) if alone else running(database).id
    child = submit(database, parents=(id_,))
    with database.write() as connection:
        cancel(connection, database, [id_])

    died(database, crashed=True, max_crashes=1)

    assert states(database, [id_, child]) == [State.CANCELLED, State.CANCELLED]
    assert see(database, id_).error_code == "cancelled"
    assert see(database, id_).finished_at is not None
    assert_counters_are_true(database)


def test_two_leaders_that_rescue_at_once_rescue_each_job_once(postgres: Database) -> None:
    ids = [running(postgres).id for _ in range(4)]
    for id_ in ids:
        change(postgres, id_, lease_until=LONG_AGO)
    with postgres.write() as connection:
        first = rescue_expired(connection, postgres)
        assert Background(lambda: expired(postgres)).result() == []  # it does not wait either

    assert set(first) == set(ids)
    assert_counters_are_true(postgres)


def test_a_settle_that_meets_its_rescue_is_refused(postgres: Database) -> None:
    claimed = running(postgres)
    change(postgres, claimed.id, lease_until=LONG_AGO)
    with postgres.write() as connection:
        rescue_expired(connection, postgres)
        settling = Background(lambda: end(postgres, ending(claimed)))
        assert settling.waits

    assert settling.result().applied == frozenset()
    assert see(postgres, claimed.id).state == State.AVAILABLE
    assert outcomes(postgres, claimed.id) == [(1, "lost", None)]


# --- times


def test_a_job_becomes_available_when_its_time_has_come(database: Database) -> None:
    due, later = submit(database, delay_s=60), submit(database, delay_s=60)
    failed, child = submit(database), submit(database, parents=(submit(database),), delay_s=60)
    finish(database, failed, State.RETRYABLE, backoff_s=60)
    for id_ in (due, failed, child):
        change(database, id_, available_at=LONG_AGO)

    with database.write() as connection:
        assert wake_due(connection, database) == 2

    assert states(database, [due, failed]) == [State.AVAILABLE] * 2
    assert states(database, [later, child]) == [State.SCHEDULED] * 2
    assert_counters_are_true(database)


def test_the_due_are_woken_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundmill.storage.rescue.PAGE", 2)
    for id_ in submit_many(database, 3, delay_s=60):
        change(database, id_, available_at=LONG_AGO)

    with database.write() as connection:
        assert [wake_due(connection, database) for _ in range(3)] == [2, 1, 0]


def test_a_job_that_waits_past_its_deadline_is_discarded_with_its_children(database: Database) -> None:
    late, running_ = submit(database, timeout_s=60), running(database, timeout_s=60).id
    child, in_time = submit(database, parents=(late,)), submit(database, timeout_s=60)
    for id_ in (late, running_):
        change(database, id_, deadline_at=LONG_AGO)

    with database.write() as connection:
        assert discard_late(connection, database) == 1
        assert discard_late(connection, database) == 0

    assert states(database, [late, child]) == [State.DISCARDED, State.CANCELLED]
    assert see(database, late).error_code == "deadline_exceeded"
    assert states(database, [running_, in_time]) == [State.EXECUTING, State.AVAILABLE]
    assert_counters_are_true(database)


# --- lost messages


def test_published_jobs_are_counted_and_listed_by_the_age_of_their_message(database: Database) -> None:
    old, older, young, taken = (submit(database) for _ in range(4))
    submit(database)
    other, urgent = submit(database, model="acoustic"), submit(database, priority=9)
    for id_, at in {old: 20.0, older: 10.0, taken: 5.0, other: 5.0, urgent: 30.0}.items():
        change(database, id_, published_at=at)
    with database.write() as connection:
        now = database.time(connection)
    change(database, young, published_at=now)
    change(database, taken, state="executing")

    with database.read() as connection:
        assert count_published(connection, database, MODEL, older_s=5) == {(MODEL, 6): 2, (MODEL, 0): 1}
        oldest = oldest_published(connection, database, (MODEL, 6), older_s=5, count=10)
        assert [wake.id for wake in oldest] == [older, old]
        assert len(oldest_published(connection, database, (MODEL, 6), older_s=5, count=1)) == 1
        assert oldest_published(connection, database, (MODEL, 6), older_s=5, count=-3) == []
        assert published_models(connection) == ["acoustic", MODEL]
