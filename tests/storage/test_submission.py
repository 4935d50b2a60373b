"""Accepting jobs: all of a call or none, known keys, parents."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select

from soundmill.storage.attempts import settle
from soundmill.storage.database import Database
from soundmill.storage.errors import IdempotencyConflict, NotFound, SubmitRefused, Unstorable
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import artifacts_of, parents_of
from soundmill.storage.rows import Blob, Job
from soundmill.storage.submission import NewJob, StoredInput, accept, request_digest

from .jobs import (
    Background,
    accepted,
    assert_counters_are_true,
    end,
    ending,
    finish,
    new_job,
    see,
    states,
    submit,
    take,
)

CLIP = StoredInput(name="audio", sha256="b" * 64, size=99, media_type="audio/flac")


def count_jobs(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(Job)).scalar_one()


def test_an_accepted_job_is_available_in_the_order_of_the_call(database: Database) -> None:
    jobs = [new_job(custom_id=f"line {n}", args={"text": "ä ☃ " * n}) for n in range(4)]
    answers = accepted(database, *jobs)

    assert [answer.id for answer in answers] == [job.id for job in jobs]
    assert all(answer.fresh and answer.state == State.AVAILABLE for answer in answers)
    assert sorted(answer.seq for answer in answers) == [answer.seq for answer in answers]
    job = see(database, jobs[3].id)
    assert (job.custom_id, job.args, job.attempt, job.priority) == ("line 3", {"text": "ä ☃ ä ☃ ä ☃ "}, 0, 4)
    assert_counters_are_true(database)


def test_a_delayed_job_is_scheduled(database: Database) -> None:
    job = see(database, submit(database, delay_s=60))

    assert job.state == State.SCHEDULED
    assert job.available_at == job.scheduled_at == pytest.approx(job.submitted_at + 60)


def test_a_timeout_becomes_a_deadline(database: Database) -> None:
    job = see(database, submit(database, timeout_s=90))

    assert job.deadline_at == pytest.approx(job.submitted_at + 90)


def test_no_jobs_are_accepted_as_none(database: Database) -> None:
    assert accepted(database) == []


def test_a_call_of_several_statements_is_accepted_whole(database: Database) -> None:
    answers = accepted(database, *(new_job(batch=f"b{n % 3}", idempotency_key=str(n)) for n in range(1200)))

    assert len({answer.id for answer in answers}) == count_jobs(database) == 1200
    assert_counters_are_true(database)


def test_nothing_of_a_refused_call_is_kept(database: Database) -> None:
    with pytest.raises(NotFound, match="there is no job nobody"):
        accepted(database, new_job(), new_job(parents=("nobody",)))

    assert count_jobs(database) == 0


def test_a_value_that_cannot_be_kept_is_refused_without_being_named(database: Database) -> None:
    with pytest.raises(Unstorable) as caught:
        accepted(database, new_job(args={"text": "a secret", "speed": float("nan")}, digest="0" * 64))

    assert "secret" not in str(caught.value) + str(caught.value.__cause__)


def test_input_audio_is_recorded_with_the_job(database: Database) -> None:
    one, two = submit(database, inputs=(CLIP,)), submit(database, inputs=(CLIP,))

    with database.read() as connection:
        [file] = artifacts_of(connection, one)
        assert (file.role, file.name, file.sha256, file.size) == ("input", "audio", CLIP.sha256, 99)
        assert len(artifacts_of(connection, two)) == 1
        assert connection.execute(select(func.count()).select_from(Blob)).scalar_one() == 1


# --- idempotency keys


def test_a_known_key_answers_with_its_job_in_whatever_state(database: Database) -> None:
    first = submit(database, idempotency_key="k")
    finish(database, first)
    [answer] = accepted(database, new_job(idempotency_key="k"))

    assert (answer.id, answer.fresh, answer.state) == (first, False, State.COMPLETED)
    assert count_jobs(database) == 1
    assert_counters_are_true(database)


def test_a_key_twice_in_one_call_is_one_job(database: Database) -> None:
    answers = accepted(database, new_job(idempotency_key="k"), new_job(idempotency_key="k"))

    assert answers[0].id == answers[1].id
    assert [answer.fresh for answer in answers] == [True, False]
    assert_counters_are_true(database)


def test_a_known_key_with_other_arguments_is_a_conflict_that_names_the_job(database: Database) -> None:
    first = submit(database, idempotency_key="k")

    with pytest.raises(IdempotencyConflict, match=f"'k' belongs to job {first}") as caught:
        accepted(database, new_job(), new_job(idempotency_key="k", args={"text": "else"}))

    assert caught.value.field == "idempotency_key"
    assert count_jobs(database) == 1


def test_keys_belong_to_a_tenant(database: Database) -> None:
    one = submit(database, idempotency_key="k", tenant="one")
    two = submit(database, idempotency_key="k", tenant="two", args={"text": "else"})

    assert one != two


def test_jobs_without_a_key_are_never_the_same(database: Database) -> None:
    assert submit(database) != submit(database)


def test_of_two_that_race_with_one_key_the_second_gets_the_job_of_the_first(postgres: Database) -> None:
    with postgres.write() as connection:
        [first] = accept(connection, postgres, [new_job(idempotency_key="k")])
        race = Background(lambda: accepted(postgres, new_job(idempotency_key="k")))
        assert race.waits

    [second] = race.result()
    assert (second.id, second.fresh) == (first.id, False)
    assert count_jobs(postgres) == 1
    assert_counters_are_true(postgres)


def test_of_two_that_race_with_one_key_the_second_wins_if_the_first_gives_up(postgres: Database) -> None:
    with postgres.write() as connection:
        accept(connection, postgres, [new_job(idempotency_key="k")])
        race = Background(lambda: accepted(postgres, new_job(idempotency_key="k")))
        assert race.waits
        connection.rollback()

    [second] = race.result()
    assert second.fresh


def test_many_threads_with_the_same_keys_make_each_job_once(database: Database) -> None:
    def work() -> list[str]:
        jobs = [new_job(idempotency_key=f"k{n}", batch=f"b{n % 2}") for n in range(20)]
        return [answer.id for answer in accepted(database, *jobs)]

    threads = [Background(work) for _ in range(4)]
    answers = [thread.result() for thread in threads]

    assert all(answer == answers[0] for answer in answers)
    assert count_jobs(database) == 20
    assert_counters_are_true(database)


# --- parents


def test_a_child_waits_for_its_unfinished_parents(database: Database) -> None:
    one, two = submit(database), submit(database)
    child = see(database, submit(database, parents=(one, two)))

    assert (child.state, child.pending_parents) == (State.SCHEDULED, 2)
    assert child.available_at is None
    with database.read() as connection:
        assert set(parents_of(connection, child.id)) == {one, two}


def test_a_parent_that_is_named_twice_counts_once(database: Database) -> None:
    parent = submit(database)
    child = submit(database, parents=(parent, parent))
    assert see(database, child).pending_parents == 1

    assert finish(database, parent).freed == (child,)


def test_a_child_of_completed_parents_may_run_at_once(database: Database) -> None:
    parent = submit(database)
    finish(database, parent)

    assert see(database, submit(database, parents=(parent,))).state == State.AVAILABLE


@pytest.mark.parametrize("end_state", [State.DISCARDED, State.CANCELLED])
def test_a_child_of_a_failed_parent_is_cancelled_with_the_reason(
    database: Database, end_state: State
) -> None:
    parent = submit(database)
    finish(database, parent, end_state)
    child, grandchild = new_job(parents=(parent,)), new_job()
    grandchild = new_job(parents=(child.id,))
    answers = accepted(database, child, grandchild)

    assert [answer.state for answer in answers] == [State.CANCELLED, State.CANCELLED]
    assert see(database, grandchild.id).error_code == "parent_failed"
    assert see(database, child.id).finished_at is not None
    assert_counters_are_true(database)


def test_a_family_may_come_in_one_call_in_any_order(database: Database) -> None:
    parent = new_job()
    child = new_job(parents=(parent.id,))
    answers = accepted(database, child, parent)

    assert [answer.state for answer in answers] == [State.SCHEDULED, State.AVAILABLE]
    assert finish(database, parent.id).freed == (child.id,)


def test_a_circle_of_parents_is_refused(database: Database) -> None:
    one, two = new_job(), new_job()
    with pytest.raises(SubmitRefused, match="waits for itself"):
        accepted(
            database, new_job(), new_job(id=one.id, parents=(two.id,)), new_job(id=two.id, parents=(one.id,))
        )


def test_a_job_of_another_tenant_is_no_parent(database: Database) -> None:
    theirs = submit(database, tenant="theirs")

    with pytest.raises(NotFound):
        submit(database, tenant="ours", parents=(theirs,))


def aligned(parent: NewJob, **changes: Any) -> NewJob:
    return new_job(kind="align", parents=(parent.id,), args={"audio": {"job": parent.id}}, **changes)


def test_a_new_child_of_a_known_key_waits_for_the_job_that_has_the_key(database: Database) -> None:
    first = submit(database, idempotency_key="speech")
    again = new_job(idempotency_key="speech")
    child = aligned(again)

    accepted(database, again, child)

    with database.read() as connection:
        assert parents_of(connection, child.id) == [first]
    assert see(database, child.id).args == {"audio": {"job": first}}
    assert finish(database, first).freed == (child.id,)


def test_a_family_that_comes_again_is_the_same_family(database: Database) -> None:
    def family() -> list[str]:
        parent = new_job(idempotency_key="speech")
        child = aligned(
            parent, idempotency_key="align", digest=request_digest("align", "m", {"job": "@speech"})
        )
        return [answer.id for answer in accepted(database, parent, child)]

    assert family() == family()
    assert count_jobs(database) == 2
    assert_counters_are_true(database)


def test_a_child_that_is_submitted_while_its_parent_settles_is_freed(postgres: Database) -> None:
    parent = submit(postgres)
    claimed = take(postgres, parent)[parent]
    child = new_job(parents=(parent,))
    with postgres.write() as connection:
        accept(connection, postgres, [child])
        settling = Background(lambda: end(postgres, ending(claimed)))
        assert settling.waits

    assert settling.result().freed == (child.id,)
    assert see(postgres, child.id).state == State.AVAILABLE


def test_a_child_that_is_submitted_behind_a_settle_sees_the_end(postgres: Database) -> None:
    parent = submit(postgres)
    claimed = take(postgres, parent)[parent]
    with postgres.write() as connection:
        settle(connection, postgres, [ending(claimed)])
        submitting = Background(partial(submit, postgres, parents=(parent,)))
        assert submitting.waits

    assert states(postgres, [submitting.result()]) == [State.AVAILABLE]


def test_a_submit_goes_with_the_transaction_that_it_joined(database: Database) -> None:
    with database.write() as connection:
        accept(connection, database, [new_job()])
        connection.rollback()

    assert count_jobs(database) == 0


def test_the_digest_does_not_depend_on_the_order_of_the_arguments() -> None:
    assert request_digest("tts", "m", {"a": 1, "b": 2}) == request_digest("tts", "m", {"b": 2, "a": 1})
    assert request_digest("tts", "m", {"a": 1}) != request_digest("tts", "m", {"a": 2})
