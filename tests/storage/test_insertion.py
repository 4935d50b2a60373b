"""Many rows at once, on both databases."""

from __future__ import annotations

from sqlalchemy import func, select

from soundmill.storage.database import CHUNK, Database
from soundmill.storage.rows import Job

from .jobs import accepted, assert_counters_are_true, new_job, see


def places(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {row.id: row.seq for row in connection.execute(select(Job.id, Job.seq))}


def test_rows_that_differ_in_everything_stay_in_order_and_keep_what_is_theirs(database: Database) -> None:
    jobs = [
        new_job(
            tenant=f"t{n % 2}", batch=f"b{n % 3}", custom_id=f"line\t{n}\\" if n % 2 else None, priority=n % 10,
            idempotency_key=f"k{n}" if n % 4 else None, delay_s=float(n % 2), timeout_s=90.5 if n % 3 else None,
            args={"text": f'"{n}"\n\x00 NaN ☃', "speed": 0.1 * n}, model_revision="r" if n % 5 else None,
        )
        for n in range(CHUNK + 20)
    ]  # fmt: skip
    answers = accepted(database, *jobs)

    assert {answer.id: answer.seq for answer in answers} == places(database)
    assert [answer.seq for answer in answers] == sorted(answer.seq for answer in answers)
    for job in jobs[-20:]:
        row = see(database, job.id)
        assert (row.args, row.custom_id, row.priority) == (job.args, job.custom_id, job.priority)
        assert (row.batch, row.state) == (job.batch, "scheduled" if job.delay_s else "available")
    assert_counters_are_true(database)


def test_each_answer_has_its_own_place_where_some_keys_are_known(database: Database) -> None:
    old = accepted(database, *(new_job(idempotency_key=f"k{n}") for n in range(0, 30, 3)))
    answers = accepted(database, *(new_job(idempotency_key=f"k{n}") for n in range(30)), new_job())

    assert [answer.id for answer in answers[:30:3]] == [answer.id for answer in old]
    assert [answer.fresh for answer in answers] == [n % 3 != 0 for n in range(30)] + [True]
    assert {answer.id: answer.seq for answer in answers} == places(database)
    assert_counters_are_true(database)


def test_what_is_not_given_has_its_default(database: Database) -> None:
    accepted(database, new_job())

    with database.read() as connection:
        row = connection.execute(select(Job)).one()
        assert (row.attempt, row.failures, row.crashes, row.suspect, row.alone) == (0, 0, 0, False, False)
        assert connection.execute(select(func.count()).where(Job.published_at.is_(None))).scalar_one() == 1
