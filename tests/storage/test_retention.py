"""Jobs that nobody needs any more go, with their files; what something refers to stays."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from soundmill.storage.attempts import Made
from soundmill.storage.blobs import LocalBlobStore
from soundmill.storage.collector import Collector
from soundmill.storage.database import Database
from soundmill.storage.decisions import retry
from soundmill.storage.errors import NotFound, StateConflict, StorageUnavailable
from soundmill.storage.lifecycle import State
from soundmill.storage.retention import (
    DAY_S,
    KEYS_OUTLIVE_S,
    PAGE,
    WORKERS_OUTLIVE_S,
    Policy,
    Pruned,
    forget_workers,
    hold_batch,
    walk,
)
from soundmill.storage.rows import Artifact, Attempt, Base, Batch, Blob, Job, JobParent, Worker
from soundmill.storage.submission import accept

from .jobs import (
    Background,
    accepted,
    assert_counters_are_true,
    change,
    finish,
    new_job,
    running,
    see,
    submit,
    submit_many,
)

LONG_AGO = 40 * DAY_S
MONTH = Policy(kept_s={"completed": 30 * DAY_S, "discarded": 30 * DAY_S, "cancelled": 30 * DAY_S})
GRACE_S = DAY_S


def counts(database: Database) -> dict[str, int]:
    with database.read() as connection:
        tables = (Job, Attempt, Artifact, JobParent, Batch)
        return {
            t.__tablename__: connection.execute(select(func.count()).select_from(t)).scalar_one()
            for t in tables
        }


def age(database: Database, *ids: str, by_s: float = LONG_AGO) -> None:
    """Let the jobs have been accepted and have ended long ago."""
    then = time.time() - by_s
    for id_ in ids:
        ended = None if see(database, id_).finished_at is None else then
        change(database, id_, submitted_at=then, finished_at=ended)


def ended(database: Database, state: State = State.COMPLETED, **changes: Any) -> str:
    """A job that ended long ago."""
    id_ = submit(database, **changes)
    finish(database, id_, state)
    age(database, id_)
    return id_


def pruned(database: Database, policy: Policy = MONTH, **options: Any) -> Pruned:
    """Walk once; the sum of the pages."""
    pages = list(walk(database, policy, **options))
    return Pruned(
        jobs=sum(page.jobs for page in pages),
        files=sum(page.files for page in pages),
        bytes=sum(page.bytes for page in pages),
        spared=sum(page.spared for page in pages),
    )


def exists(database: Database, id_: str) -> bool:
    try:
        see(database, id_)
    except NotFound:
        return False
    return True


def test_what_ended_long_ago_goes_with_all_that_belongs_to_it(database: Database) -> None:
    made = Made(name="a.wav", role="audio", sha256="a" * 64, size=7, media_type="audio/wav")
    old = submit(database, batch="b")
    finish(database, old, artifacts=(made,))
    age(database, old)
    young = submit(database, batch="b")
    finish(database, young)

    assert pruned(database) == Pruned(jobs=1, files=1, bytes=7)

    assert not exists(database, old)
    assert exists(database, young)
    assert counts(database) == {"jobs": 1, "attempts": 1, "artifacts": 0, "job_parents": 0, "batches": 1}
    assert_counters_are_true(database)
    assert pruned(database) == Pruned()


@pytest.mark.parametrize("state", [State.SCHEDULED, State.AVAILABLE, State.EXECUTING, State.RETRYABLE])
def test_a_job_that_is_not_final_stays_however_old(database: Database, state: State) -> None:
    id_ = running(database).id
    change(database, id_, state=state.value, submitted_at=1.0, finished_at=1.0)

    assert pruned(database) == Pruned()
    assert see(database, id_).state == state


def test_each_final_state_has_a_time_of_its_own_and_without_one_stays_for_ever(database: Database) -> None:
    done = ended(database)
    discarded, cancelled = ended(database, State.DISCARDED), ended(database, State.CANCELLED)

    assert pruned(database, Policy(kept_s={"completed": 30 * DAY_S, "discarded": 60 * DAY_S})).jobs == 1
    assert [exists(database, id_) for id_ in (done, discarded, cancelled)] == [False, True, True]
    assert pruned(database, Policy(kept_s={})) == Pruned()
    assert pruned(database, Policy(kept_s={"discarded": 39 * DAY_S})).jobs == 1
    assert [exists(database, id_) for id_ in (discarded, cancelled)] == [False, True]


def test_only_the_jobs_of_the_tenant_go_if_one_is_named(database: Database) -> None:
    mine, other = ended(database), ended(database, tenant="other")

    assert pruned(database, Policy(kept_s=MONTH.kept_s, tenant="default")).jobs == 1
    assert (exists(database, mine), exists(database, other)) == (False, True)


def test_a_dry_run_says_the_same_and_changes_nothing(database: Database) -> None:
    made = Made(name="a.wav", role="audio", sha256="a" * 64, size=7, media_type="audio/wav")
    id_ = submit(database)
    finish(database, id_, artifacts=(made,))
    age(database, id_)
    parent = ended(database)
    submit(database, parents=(parent,))
    before = counts(database)

    said = pruned(database, dry_run=True)

    assert said == Pruned(jobs=1, files=1, bytes=7, spared=1)
    assert counts(database) == before
    assert pruned(database) == said


# --- what is referred to


def test_a_parent_stays_until_its_child_is_gone(database: Database) -> None:
    parent = ended(database)
    child = submit(database, parents=(parent,))

    assert pruned(database) == Pruned(spared=1)
    finish(database, child)
    assert pruned(database) == Pruned(spared=1), "its child may be asked for: a young job refers to it"

    age(database, child)
    assert pruned(database) == Pruned(jobs=1, spared=1)
    assert pruned(database) == Pruned(jobs=1)
    assert counts(database)["job_parents"] == 0
    assert_counters_are_true(database)


def test_a_batch_that_somebody_reads_stays_until_the_reader_is_done(database: Database) -> None:
    held, free = ended(database, batch="held"), ended(database, batch="free")
    with database.write() as connection:
        hold_batch(connection, database, "default/held")

    assert pruned(database) == Pruned(jobs=1, spared=1)
    assert (exists(database, held), exists(database, free)) == (True, False)
    with database.write() as connection:
        connection.execute(update(Batch).values(held_until=time.time() - 1))
    assert pruned(database).jobs == 1


def test_a_job_that_somebody_has_locked_is_left_for_the_next_walk(postgres: Database) -> None:
    locked, free = ended(postgres), ended(postgres)
    with postgres.write() as connection:
        connection.execute(select(Job.id).where(Job.id == locked).with_for_update(read=True))
        assert Background(lambda: pruned(postgres)).result() == Pruned(jobs=1, spared=1)
    assert (exists(postgres, locked), exists(postgres, free)) == (True, False)


def test_a_child_that_is_being_submitted_keeps_its_parent(postgres: Database) -> None:
    parent = ended(postgres)
    with postgres.write() as connection:
        accept(connection, postgres, [new_job(parents=(parent,))])
        assert Background(lambda: pruned(postgres)).result() == Pruned(spared=1)
    assert pruned(postgres) == Pruned(spared=1)
    assert exists(postgres, parent)


def test_the_file_of_two_jobs_stays_for_the_other_one(database: Database, tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path / "blobs")
    with blobs.scratch() as folder:
        (folder / "a").write_bytes(b"the same")
        stored = blobs.put(folder / "a")
    made = Made(name="a", role="audio", sha256=stored.sha256, size=stored.size, media_type="audio/wav")
    first, second = submit(database), submit(database)
    for id_ in (first, second):
        finish(database, id_, artifacts=(made,))
    collector = Collector(database, blobs, GRACE_S)
    much_later = time.time() + 10 * DAY_S

    age(database, first)
    assert pruned(database).jobs == 1
    assert collector.collect(now=much_later).deleted == 0
    with blobs.open(stored.sha256) as file:
        assert file.read() == b"the same"

    age(database, second)
    assert pruned(database).jobs == 1
    assert collector.collect(now=much_later).deleted == 1


def test_the_bytes_of_a_pruned_job_stay_for_the_grace_of_those_who_have_just_read_its_row(
    database: Database, tmp_path: Path
) -> None:
    blobs = LocalBlobStore(tmp_path / "blobs")
    id_ = submit(database)
    made = Made(name="a", role="audio", sha256="b" * 64, size=1, media_type="audio/wav")
    finish(database, id_, artifacts=(made,))
    age(database, id_)
    with database.write() as connection:
        connection.execute(update(Blob).values(touched_at=1.0))

    assert pruned(database).files == 1

    Collector(database, blobs, GRACE_S).collect()
    with database.read() as connection:
        assert connection.execute(select(Blob.touched_at)).scalar_one() == pytest.approx(time.time(), abs=60)
    Collector(database, blobs, GRACE_S).collect(now=time.time() + 2 * GRACE_S)
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(Blob)).scalar_one() == 0


# --- keys


def test_a_key_outlives_its_job_for_a_week_and_stands_for_it(database: Database) -> None:
    id_ = ended(database, idempotency_key="k", batch="b", args={"text": "private words"})

    assert pruned(database).jobs == 1

    husk = see(database, id_)
    assert (husk.state, husk.args, husk.result) == (State.COMPLETED, {}, None)
    assert husk.pruned_at == pytest.approx(time.time(), abs=60)
    again = accepted(database, new_job(idempotency_key="k", batch="b", args={"text": "private words"}))[0]
    assert (again.id, again.fresh, again.state) == (id_, False, State.COMPLETED)
    assert pruned(database) == Pruned()
    assert_counters_are_true(database)

    change(database, id_, pruned_at=time.time() - KEYS_OUTLIVE_S - 60)
    assert pruned(database) == Pruned()  # it was counted when it was pruned
    assert not exists(database, id_)
    assert accepted(database, new_job(idempotency_key="k", batch="b"))[0].fresh
    assert_counters_are_true(database)


def test_what_is_left_of_a_pruned_job_can_neither_be_retried_nor_be_a_parent(database: Database) -> None:
    failed = ended(database, State.DISCARDED, idempotency_key="k")
    pruned(database)

    with pytest.raises(StateConflict, match="was pruned"), database.write() as connection:
        retry(connection, database, [failed])
    with pytest.raises(NotFound, match="there is no job"):
        submit(database, parents=(failed,))


# --- batches, pages and workers


def test_a_batch_goes_after_its_last_job_and_comes_back_with_the_next(database: Database) -> None:
    ended(database, batch="gone")
    ended(database, batch="left")
    submit(database, batch="left")

    assert pruned(database).jobs == 2

    with database.read() as connection:
        assert list(connection.execute(select(Batch.id)).scalars()) == ["default/left"]
    submit(database, batch="gone")
    assert_counters_are_true(database)


def test_a_batch_to_which_somebody_adds_stays(postgres: Database) -> None:
    ended(postgres, batch="b")
    impatient = Database(postgres.url.render_as_string(hide_password=False), busy_s=0.2)
    with postgres.write() as connection:
        accept(connection, postgres, [new_job(batch="b"), new_job(batch="other")])
        # The counters of the batch are the submitter's until its commit, as they are for every settle.
        with pytest.raises(StorageUnavailable, match="lock timeout"):
            pruned(impatient)
    impatient.close()
    assert pruned(postgres).jobs == 1
    with postgres.read() as connection:
        assert sorted(connection.execute(select(Batch.id)).scalars()) == ["default/b", "default/other"]
    assert_counters_are_true(postgres)


def test_a_walk_sees_every_page_and_ends_at_the_first_job_that_cannot_be_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundmill.storage.retention.LOOKED_AT", 4)
    ids = submit_many(database, 10)
    with database.write() as connection:
        connection.execute(update(Job).values(submitted_at=1.0))
        # Every other one ended long ago, one a moment ago, and the others not yet.
        over = {"state": "completed", "finished_at": 1.0}
        connection.execute(update(Job).where(Job.id.in_(ids[::2])).values(over))
        connection.execute(update(Job).where(Job.id == ids[1]).values(over | {"finished_at": time.time()}))
    submit_many(database, 50)

    pages = list(walk(database, MONTH))

    assert sum(page.jobs for page in pages) == 5
    assert len(pages) == 3
    assert counts(database)["jobs"] == 5 + 50


def test_many_jobs_go_in_pages(database: Database) -> None:
    ids = submit_many(database, 2 * PAGE + 1)
    with database.write() as connection:
        connection.execute(
            update(Job).where(Job.id.in_(ids)).values(state="completed", submitted_at=1.0, finished_at=1.0)
        )

    assert [page.jobs for page in walk(database, MONTH)] == [PAGE, PAGE, 1]
    assert counts(database)["jobs"] == 0


def test_a_worker_that_was_not_heard_of_for_a_month_is_forgotten_unless_it_drains(database: Database) -> None:
    now = time.time()
    silent = {"started_at": now - 2 * WORKERS_OUTLIVE_S, "heartbeat_at": 0.0}
    common = {
        "host": "h",
        "card": "cpu:0",
        "pid": 1,
        "models": [],
        "slots": 1,
        "incarnation": "i",
        "draining": False,
    }
    rows = [
        {"name": "gone", **common, **silent},
        {"name": "drained", **common, **silent, "draining": True},
        {"name": "live", **common, "started_at": 1.0, "heartbeat_at": now},
        {"name": "new", **common, "started_at": now, "heartbeat_at": 0.0},
    ]
    with database.write() as connection:
        connection.execute(insert(Worker), rows)
        assert forget_workers(connection, database) == 1
    with database.read() as connection:
        assert sorted(connection.execute(select(Worker.name)).scalars()) == ["drained", "live", "new"]


def test_every_table_with_rows_of_a_job_is_known_to_pruning() -> None:
    """A table that is added later must not keep what belongs to jobs that are gone."""
    named = {
        table.name
        for table in Base.metadata.sorted_tables
        if {"job_id", "child", "parent"} & set(table.columns.keys())
    }
    assert named == {"artifacts", "attempts", "job_parents"}
