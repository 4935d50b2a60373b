"""What people decide: cancel, retry, pause, drain."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from soundmill.storage.attempts import Made, claim
from soundmill.storage.database import Database
from soundmill.storage.decisions import Cancellation, cancel, retry, set_draining, set_paused
from soundmill.storage.errors import NotFound, StateConflict
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import artifacts_of, attempts_of, paused_models, workers
from soundmill.storage.rows import Worker
from soundmill.storage.submission import StoredInput

from .jobs import (
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
    take,
)


def cancelled(database: Database, *ids: str) -> Cancellation:
    with database.write() as connection:
        return cancel(connection, database, ids)


def retried(database: Database, *ids: str) -> list[str]:
    with database.write() as connection:
        return retry(connection, database, ids)


def report(database: Database, name: str, card: str) -> None:
    with database.write() as connection:
        values = {
            "name": name, "incarnation": f"{name}/1", "host": "h", "card": card, "pid": 1, "models": ["m"],
            "slots": 4, "started_at": 1.0, "heartbeat_at": 1.0,
        }  # fmt: skip
        connection.execute(insert(Worker).values(values))


def test_a_waiting_job_is_cancelled_at_once(database: Database) -> None:
    available, scheduled, failed = submit(database), submit(database, delay_s=60), submit(database)
    finish(database, failed, State.RETRYABLE, backoff_s=60)

    done = cancelled(database, available, scheduled, failed)

    assert set(done.cancelled) == {available, scheduled, failed}
    assert done.stopping == ()
    job = see(database, available)
    assert (job.state, job.error_code) == (State.CANCELLED, "cancelled")
    assert job.finished_at is not None
    assert take(database, available) == {}
    assert_counters_are_true(database)


def test_a_running_job_is_asked_to_stop(database: Database) -> None:
    claimed = running(database)

    done = cancelled(database, claimed.id)

    assert (done.cancelled, done.stopping) == ((), ((claimed.id, 1),))
    job = see(database, claimed.id)
    assert job.state == State.EXECUTING
    assert job.cancel_requested_at is not None
    cancelled(database, claimed.id)
    assert see(database, claimed.id).cancel_requested_at == job.cancel_requested_at


def test_a_final_job_stays_as_it_is(database: Database) -> None:
    id_ = submit(database)
    finish(database, id_)

    assert cancelled(database, id_) == Cancellation(cancelled=(), stopping=())
    assert see(database, id_).state == State.COMPLETED


def test_cancelling_an_unknown_job_changes_nothing(database: Database) -> None:
    id_ = submit(database)

    with pytest.raises(NotFound, match="there is no job nobody"):
        cancelled(database, id_, "nobody")
    assert see(database, id_).state == State.AVAILABLE


def test_a_cancel_that_meets_a_claim_asks_the_worker(postgres: Database) -> None:
    id_ = submit(postgres)
    with postgres.write() as connection:
        claim(connection, postgres, [id_], worker="w", card="c", lease_s=30)
        cancelling = Background(lambda: cancelled(postgres, id_))
        assert cancelling.waits

    assert cancelling.result() == Cancellation(cancelled=(), stopping=((id_, 1),))
    assert_counters_are_true(postgres)


def test_a_retry_gives_a_fresh_budget_and_keeps_the_attempt_number(database: Database) -> None:
    claimed = running(database)
    end(database, ending(claimed, State.DISCARDED, charge=True, error_code="engine", error="it broke"))
    change(database, claimed.id, crashes=1, suspect=True, deadline_at=1.0)

    assert retried(database, claimed.id) == [claimed.id]

    job = see(database, claimed.id)
    assert (job.state, job.attempt, job.failures, job.crashes) == (State.AVAILABLE, 1, 0, 0)
    assert (job.error_code, job.error, job.finished_at, job.deadline_at) == (None, None, None, None)
    assert not field(database, claimed.id, "suspect")
    assert field(database, claimed.id, "published_at") is None
    assert take(database, claimed.id)[claimed.id].attempt == 2
    assert_counters_are_true(database)


def test_a_retried_job_keeps_its_input_and_its_history_but_not_its_old_files(database: Database) -> None:
    clip = StoredInput(name="clip", sha256="c" * 64, size=1, media_type="audio/wav")
    partial = Made(name="log.json", role="log", sha256="d" * 64, size=1, media_type="application/json")
    claimed = running(database, inputs=(clip,))
    end(database, ending(claimed, State.DISCARDED, artifacts=(partial,)))

    retried(database, claimed.id)

    with database.read() as connection:
        assert [file.name for file in artifacts_of(connection, claimed.id)] == ["clip"]
        assert [attempt.outcome for attempt in attempts_of(connection, claimed.id)] == ["discarded"]
    finish(database, claimed.id, artifacts=(partial,))


@pytest.mark.parametrize("delay_s", [0, 60])
def test_a_job_that_waits_cannot_be_retried(database: Database, delay_s: float) -> None:
    id_, failed = submit(database, delay_s=delay_s), submit(database)
    finish(database, failed, State.DISCARDED)

    with pytest.raises(StateConflict, match=f"job {id_} is .*; only discarded and cancelled jobs"):
        retried(database, failed, id_)
    assert see(database, failed).state == State.DISCARDED


def test_a_completed_job_cannot_be_retried(database: Database) -> None:
    id_ = submit(database)
    finish(database, id_)

    with pytest.raises(StateConflict, match="is completed"):
        retried(database, id_)


def test_retrying_an_unknown_job_says_so(database: Database) -> None:
    with pytest.raises(NotFound):
        retried(database, "nobody")


def test_a_retried_job_waits_again_for_a_parent_that_runs_again(database: Database) -> None:
    parent = submit(database)
    child = submit(database, parents=(parent,))
    cancelled(database, parent)

    assert retried(database, parent, child) == [parent]
    assert states(database, [parent, child]) == [State.AVAILABLE, State.SCHEDULED]
    assert_counters_are_true(database)


def test_a_queue_is_paused_and_resumed(database: Database) -> None:
    for paused, expected in ((True, {"m"}), (True, {"m"}), (False, set())):
        with database.write() as connection:
            set_paused(connection, database, "m", paused=paused)
        with database.read() as connection:
            assert paused_models(connection) == expected


def test_a_card_is_drained_on_every_host_or_by_its_workers_name(database: Database) -> None:
    report(database, "cpu-0@one", "cpu:0")
    report(database, "cpu-0@two", "cpu:0")
    with database.write() as connection:
        assert set_draining(connection, "cpu:0", draining=True) == ["cpu-0@one", "cpu-0@two"]
        assert set_draining(connection, "cpu-0@two", draining=False) == ["cpu-0@two"]
    with database.read() as connection:
        assert [worker.draining for worker in workers(connection, database)] == [True, False]


def test_draining_a_card_that_nobody_reported_says_so(database: Database) -> None:
    with (
        pytest.raises(NotFound, match="no worker has reported the card 'npu:7'"),
        database.write() as connection,
    ):
        set_draining(connection, "npu:7", draining=True)
