"""Which jobs get a message next, and what is noted of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from soundmill.storage import window
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.rows import Job
from soundmill.storage.window import Wake, backlog_before, mark_published, pick, take_turns, wakes_of

from .jobs import accepted, change, end, ending, field, new_job, running, submit, submit_many, take

MODEL = "espeak-ng"


def picked(
    database: Database, room: dict[tuple[str, int], int] | int, paused: tuple[str, ...] = ()
) -> list[Wake]:
    lanes = {(MODEL, step): room for step in (0, 3, 6, 9)} if isinstance(room, int) else room
    with database.read() as connection:
        return pick(connection, lanes, paused)


def publish(database: Database, wakes: list[Wake]) -> None:
    with database.write() as connection:
        mark_published(connection, database, wakes)
        take_turns(connection, wakes)


def ids(wakes: list[Wake]) -> list[str]:
    return [wake.id for wake in wakes]


def test_jobs_of_one_batch_go_in_the_order_of_acceptance(database: Database) -> None:
    jobs = submit_many(database, 5)

    assert ids(picked(database, 3)) == jobs[:3]


def test_a_higher_priority_goes_first(database: Database) -> None:
    low, default, high = (submit(database, priority=priority) for priority in (2, 4, 7))

    assert ids(picked(database, 10)) == [high, default, low]
    assert [wake.lane for wake in picked(database, 10)] == [(MODEL, 3), (MODEL, 6), (MODEL, 6)]


def test_batches_take_turns(database: Database) -> None:
    a = submit_many(database, 4, batch="a")
    b = submit_many(database, 2, batch="b")
    own = submit_many(database, 1)

    assert ids(picked(database, 10)) == [own[0], a[0], b[0], a[1], b[1], a[2], a[3]]


def test_the_batch_that_was_picked_from_goes_to_the_end_of_the_ring(database: Database) -> None:
    jobs = {batch: submit_many(database, 3, batch=batch) for batch in "abc"}
    order = []
    for _ in range(6):
        wakes = picked(database, 1)
        publish(database, wakes)
        order += ids(wakes)

    assert order == [jobs[batch][depth] for depth in range(2) for batch in "abc"]


def test_a_large_batch_does_not_hold_up_a_small_one(database: Database) -> None:
    submit_many(database, 300, batch="large")
    small = submit_many(database, 3, batch="small")

    assert set(small) <= set(ids(picked(database, 6)))


def test_what_a_small_batch_leaves_is_shared_out_among_the_others(database: Database) -> None:
    for batch, count in {"a": 1, "b": 50, "c": 50, "d": 2}.items():
        submit_many(database, count, batch=batch)
    batches = Counter(field(database, wake.id, "batch_id") for wake in picked(database, 43))

    assert batches == {"default/a": 1, "default/b": 20, "default/c": 20, "default/d": 2}


def test_a_full_low_lane_does_not_block_a_high_one(database: Database) -> None:
    submit_many(database, 3, priority=0)
    high = submit_many(database, 2, priority=9)

    assert ids(picked(database, {(MODEL, 0): 5, (MODEL, 9): 0})) == high


def test_priorities_of_one_step_share_its_room(database: Database) -> None:
    submit_many(database, 3, priority=8)
    nines = submit_many(database, 3, priority=9)

    assert len(picked(database, {(MODEL, 0): 4})) == 4
    assert ids(picked(database, {(MODEL, 0): 3})) == nines


def test_models_have_lanes_of_their_own_and_paused_ones_none(database: Database) -> None:
    speech, caption = submit(database), submit(database, model="acoustic", kind="caption")
    room = {(MODEL, 6): 1, ("acoustic", 6): 1}

    assert set(ids(picked(database, room))) == {speech, caption}
    assert ids(picked(database, room, paused=(MODEL,))) == [caption]


def test_only_available_jobs_without_a_message_are_picked(database: Database) -> None:
    submit(database, delay_s=60)
    submit(database, parents=(submit(database),))
    running(database)
    assert len(picked(database, 10)) == 1

    publish(database, picked(database, 10))
    assert picked(database, 10) == []


def test_a_mark_is_conditional_on_the_attempt(database: Database) -> None:
    """Between publish and mark a worker took the job and handed it back: it needs another message."""
    claimed_meanwhile, quick = submit(database), submit(database)
    wakes = picked(database, 10)
    end(database, ending(take(database, claimed_meanwhile)[claimed_meanwhile], State.AVAILABLE))
    take(database, quick)

    publish(database, wakes)

    assert field(database, claimed_meanwhile, "published_at") is None
    assert field(database, quick, "published_at") is None
    assert [(wake.id, wake.attempt) for wake in picked(database, 10)] == [(claimed_meanwhile, 1)]


def test_a_wake_is_made_only_for_jobs_that_need_one(database: Database) -> None:
    wanted, high = submit(database), submit(database, priority=9)
    published, running_ = submit(database), running(database).id
    change(database, published, published_at=1.0)

    with database.read() as connection:
        assert ids(wakes_of(connection, [wanted, high, published, running_, "nobody"])) == [high, wanted]


def test_a_newcomer_sees_the_backlog_before_it(database: Database) -> None:
    waiting, published = submit(database, priority=5), submit(database, priority=9)
    change(database, published, published_at=1.0)
    newcomer = accepted(database, new_job())[0]

    with database.read() as connection:
        assert backlog_before(connection, MODEL, 4, newcomer.seq)
        assert not backlog_before(connection, MODEL, 6, newcomer.seq)
        assert not backlog_before(connection, "acoustic", 4, newcomer.seq)
    change(database, waiting, published_at=1.0)
    with database.read() as connection:
        assert not backlog_before(connection, MODEL, 4, newcomer.seq)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    room=st.integers(1, 120),
)
def test_the_round_is_fair_and_fills_the_room(sizes: list[int], room: int) -> None:
    reads = 0

    def oldest(_: object, model: str, priority: int, batch: str, count: int, *, skip: int = 0) -> list[Wake]:
        nonlocal reads
        numbers = range(skip, min(skip + count, sizes[int(batch)]))
        reads += len(numbers)
        return [
            Wake(id=f"{batch}/{n}", kind="tts", model=model, priority=priority, attempt=0) for n in numbers
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "_oldest", oldest)
        wakes = window._round(None, MODEL, 4, [str(n) for n in range(len(sizes))], room)  # type: ignore[arg-type]

    taken = Counter(int(wake.id.split("/")[0]) for wake in wakes)
    assert len(wakes) == len({wake.id for wake in wakes}) == min(room, sum(sizes))
    assert reads <= room + len(sizes) * 3
    most = max(taken.values())
    for batch, size in enumerate(sizes):
        assert taken[batch] >= min(size, most - 1)
        assert [wake.id for wake in wakes if wake.id.startswith(f"{batch}/")] == [
            f"{batch}/{n}" for n in range(taken[batch])
        ]


def test_a_job_that_somebody_holds_is_neither_marked_nor_waited_for(postgres: Database) -> None:
    held, free = submit_many(postgres, 2)
    wakes = picked(postgres, 2)
    with postgres.write() as connection:
        connection.execute(select(Job.id).where(Job.id == held).with_for_update())
        publish(postgres, wakes)

    assert ids(picked(postgres, 2)) == [held]
    assert field(postgres, free, "published_at") is not None
