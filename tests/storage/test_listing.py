"""Reading: one job, pages, counts, workers."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from soundmill.storage.database import Database
from soundmill.storage.decisions import set_draining
from soundmill.storage.errors import NotFound
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import (
    batch_counts,
    get_job,
    page_of_jobs,
    served_models,
    states,
    workers,
)
from soundmill.storage.rows import Worker

from .jobs import finish, running, see, submit, submit_many


def report(database: Database, name: str, models: list[str], age_s: float) -> None:
    with database.write() as connection:
        now = database.time(connection)
        values = {
            "name": name, "incarnation": f"{name}/1", "host": "h", "card": name, "pid": 1, "models": models,
            "slots": 4, "started_at": now - 99, "heartbeat_at": now - age_s,
        }  # fmt: skip
        connection.execute(insert(Worker).values(values))


def test_a_job_is_seen_with_its_batch(database: Database) -> None:
    assert see(database, submit(database, batch="a/b")).batch == "a/b"
    assert see(database, submit(database)).batch == ""


def test_an_unknown_job_or_one_of_another_tenant_is_not_found(database: Database) -> None:
    id_ = submit(database, tenant="theirs")
    with database.read() as connection:
        assert get_job(connection, id_, tenant="theirs").id == id_
        for tenant, wanted in (("ours", id_), (None, "nobody")):
            with pytest.raises(NotFound, match=f"there is no job {wanted}"):
                get_job(connection, wanted, tenant=tenant)


def test_states_leave_out_ids_that_nobody_has(database: Database) -> None:
    id_ = submit(database)
    with database.read() as connection:
        assert states(connection, [id_, "nobody"]) == {id_: State.AVAILABLE}


def test_pages_go_back_from_the_newest_or_forth_in_order(database: Database) -> None:
    ids = submit_many(database, 5)
    with database.read() as connection:
        newest = page_of_jobs(connection, limit=2)
        assert [job.id for job in newest] == ids[:2:-1]
        older = page_of_jobs(connection, limit=9, before_seq=newest[-1].seq)
        assert [job.id for job in older] == ids[2::-1]
        first = page_of_jobs(connection, limit=2, after_seq=0)
        assert [job.id for job in first] == ids[:2]
        rest = page_of_jobs(connection, after_seq=first[-1].seq)
        assert [job.id for job in rest] == ids[2:]


def test_a_page_is_narrowed_by_tenant_batch_state_and_model(database: Database) -> None:
    mine = submit(database, batch="b")
    submit(database, batch="c")
    submit(database, batch="b", tenant="other")
    caption = submit(database, batch="b", model="acoustic", kind="caption")
    finish(database, caption)
    with database.read() as connection:
        both = page_of_jobs(connection, tenant="default", batch="b")
        assert [job.id for job in both] == [caption, mine]
        assert len(page_of_jobs(connection, batch="b")) == 3
        assert [job.id for job in page_of_jobs(connection, states=[State.COMPLETED])] == [caption]
        assert [job.id for job in page_of_jobs(connection, model="acoustic")] == [caption]
        assert page_of_jobs(connection, tenant="default", batch="b", states=[State.DISCARDED]) == []


def test_counts_are_by_batch_and_state(database: Database) -> None:
    submit_many(database, 2, batch="b")
    running(database, batch="b")
    submit(database, tenant="other", batch="theirs")
    with database.read() as connection:
        counts = batch_counts(connection, tenant="default")

    assert counts["b"][State.AVAILABLE] == 2
    assert counts["b"][State.EXECUTING] == 1
    assert set(counts) == {"b"}
    assert set(counts["b"]) == set(State)


def test_the_models_of_live_workers_that_are_not_draining_are_served(database: Database) -> None:
    report(database, "live", ["a", "b"], age_s=5)
    report(database, "dead", ["c"], age_s=60)
    report(database, "drained", ["d"], age_s=5)
    with database.write() as connection:
        set_draining(connection, "drained", draining=True)
    with database.read() as connection:
        assert {worker.name: worker.live for worker in workers(connection, database)} == {
            "dead": False,
            "drained": True,
            "live": True,
        }
        assert served_models(connection, database) == {"a", "b"}
