"""Parents and children: freed, cancelled and revived, to any depth and from both sides at once."""

from __future__ import annotations

from itertools import pairwise

import pytest

from soundmill.storage.attempts import settle
from soundmill.storage.database import CHUNK, Database
from soundmill.storage.decisions import cancel, retry
from soundmill.storage.errors import StateConflict
from soundmill.storage.lifecycle import State
from soundmill.storage.rescue import release_forgotten

from .jobs import (
    Background,
    accepted,
    assert_counters_are_true,
    change,
    end,
    ending,
    field,
    finish,
    new_job,
    see,
    states,
    submit,
    take,
)

SCHEDULED, AVAILABLE, CANCELLED = State.SCHEDULED, State.AVAILABLE, State.CANCELLED


def chain(database: Database, length: int) -> list[str]:
    ids = [submit(database)]
    while len(ids) < length:
        ids.append(submit(database, parents=(ids[-1],)))
    return ids


def retried(database: Database, *ids: str) -> list[str]:
    with database.write() as connection:
        return retry(connection, database, ids)


def cancelled(database: Database, *ids: str) -> tuple[str, ...]:
    with database.write() as connection:
        return cancel(connection, database, ids).cancelled


def test_the_last_parent_frees_the_child(database: Database) -> None:
    one, two = submit(database), submit(database)
    child = submit(database, parents=(one, two))

    assert finish(database, one).freed == ()
    assert finish(database, two).freed == (child,)
    assert see(database, child).available_at is not None
    assert_counters_are_true(database)


def test_parents_that_settle_in_one_group_free_the_child(database: Database) -> None:
    one, two = submit(database), submit(database)
    child = submit(database, parents=(one, two))
    claimed = take(database, one, two)

    assert end(database, *map(ending, claimed.values())).freed == (child,)


def test_a_child_with_a_time_waits_for_both(database: Database) -> None:
    parent = submit(database)
    child = submit(database, parents=(parent,), delay_s=60)

    assert finish(database, parent).freed == ()
    assert (see(database, child).state, see(database, child).pending_parents) == (SCHEDULED, 0)


def test_a_child_whose_time_passed_before_its_parent_ended_has_waited_since_the_end(
    database: Database,
) -> None:
    parent = submit(database)
    child = submit(database, parents=(parent,), delay_s=60)
    change(database, child, available_at=20.0)

    finish(database, parent)

    assert see(database, child).state == State.AVAILABLE
    assert field(database, child, "available_at") > 20.0


def test_parents_that_complete_at_the_same_time_free_the_child_once(postgres: Database) -> None:
    one, two = submit(postgres), submit(postgres)
    child = submit(postgres, parents=(one, two))
    claimed = take(postgres, one, two)
    with postgres.write() as connection:
        first = settle(connection, postgres, [ending(claimed[one])])
        other = Background(lambda: end(postgres, ending(claimed[two])))
        assert other.waits

    assert (first.freed, other.result().freed) == ((), (child,))
    assert see(postgres, child).pending_parents == 0
    assert_counters_are_true(postgres)


def test_of_parents_that_end_at_the_same_time_the_failed_one_decides(postgres: Database) -> None:
    good, bad = submit(postgres), submit(postgres)
    child = submit(postgres, parents=(good, bad))
    claimed = take(postgres, good, bad)
    with postgres.write() as connection:
        settle(connection, postgres, [ending(claimed[good])])
        other = Background(lambda: end(postgres, ending(claimed[bad], State.DISCARDED)))
        assert other.waits

    assert other.result().cancelled == (child,)
    assert_counters_are_true(postgres)


def test_many_parents_that_settle_in_many_threads_free_every_child_once(postgres: Database) -> None:
    parents = [submit(postgres) for _ in range(8)]
    children = [submit(postgres, parents=tuple(parents[n : n + 4])) for n in range(5)]
    claimed = take(postgres, *parents)
    threads = [
        Background(lambda id_=id_: postgres.retrying(lambda c: settle(c, postgres, [ending(claimed[id_])])))  # type: ignore[misc]
        for id_ in parents
    ]
    freed = [child for thread in threads for child in thread.result().freed]

    assert sorted(freed) == sorted(children)
    assert_counters_are_true(postgres)


@pytest.mark.parametrize("state", [State.DISCARDED, State.CANCELLED])
def test_a_failed_parent_cancels_all_who_wait_to_any_depth(database: Database, state: State) -> None:
    ids = chain(database, 5)

    settled = finish(database, ids[0], state)

    assert list(settled.cancelled) == ids[1:]
    assert states(database, ids[1:]) == [CANCELLED] * 4
    assert {see(database, id_).error_code for id_ in ids[1:]} == {"parent_failed"}
    assert_counters_are_true(database)


def test_retrying_the_parent_revives_its_children_to_any_depth(database: Database) -> None:
    ids = chain(database, 5)
    finish(database, ids[0], State.DISCARDED)

    assert retried(database, ids[0]) == [ids[0]]

    assert states(database, ids) == [AVAILABLE] + [SCHEDULED] * 4
    assert [see(database, id_).pending_parents for id_ in ids] == [0, 1, 1, 1, 1]
    assert see(database, ids[4]).error_code is None
    for parent, child in pairwise(ids):
        assert finish(database, parent).freed == (child,)
    assert_counters_are_true(database)


def test_a_diamond_runs_once_and_revives_as_a_whole(database: Database) -> None:
    top = submit(database)
    left, right = submit(database, parents=(top,)), submit(database, parents=(top,))
    bottom = submit(database, parents=(left, right))
    uneven = submit(database, parents=(top, bottom))
    assert set(cancelled(database, top)) == {top, left, right, bottom, uneven}

    retried(database, top)
    assert set(finish(database, top).freed) == {left, right}
    assert finish(database, left).freed == ()
    assert finish(database, right).freed == (bottom,)
    assert finish(database, bottom).freed == (uneven,)
    assert_counters_are_true(database)


def test_a_child_of_two_failed_parents_comes_back_with_the_second(database: Database) -> None:
    one, two = submit(database), submit(database)
    child = submit(database, parents=(one, two))
    cancelled(database, one, two)

    retried(database, one)
    assert see(database, child).state == CANCELLED
    finish(database, one)
    retried(database, two)
    assert (see(database, child).state, see(database, child).pending_parents) == (SCHEDULED, 1)
    assert finish(database, two).freed == (child,)


def test_a_child_that_a_person_cancelled_stays_cancelled(database: Database) -> None:
    parent = submit(database)
    child = submit(database, parents=(parent,))
    cancelled(database, child)
    finish(database, parent, State.DISCARDED)
    retried(database, parent)

    assert see(database, child).error_code == "cancelled"
    finish(database, parent)
    assert retried(database, child) == [child]


def test_a_child_that_is_cancelled_again_after_its_parent_failed_does_not_come_back(
    database: Database,
) -> None:
    parent, child, grandchild = chain(database, 3)
    cancelled(database, parent)
    assert see(database, child).error_code == "parent_failed"

    assert cancelled(database, child) == ()
    assert see(database, child).error_code == "cancelled"
    assert retried(database, parent) == [parent]
    assert states(database, (child, grandchild)) == [CANCELLED, CANCELLED]
    finish(database, parent)
    assert retried(database, child) == [child]  # by name it does, and brings its own children back
    assert states(database, (child, grandchild)) == [AVAILABLE, SCHEDULED]
    assert_counters_are_true(database)


def test_a_child_cannot_be_retried_without_its_failed_parent(database: Database) -> None:
    parent = submit(database)
    child = submit(database, parents=(parent,))
    cancelled(database, parent)

    with pytest.raises(StateConflict, match=f"job {child} waits for job {parent}, which is cancelled; retry"):
        retried(database, child)
    assert see(database, child).state == CANCELLED

    assert retried(database, child, parent) == [parent]
    assert states(database, [parent, child]) == [AVAILABLE, SCHEDULED]


def test_a_revived_child_has_no_deadline_of_the_past(database: Database) -> None:
    parent = submit(database)
    child = submit(database, parents=(parent,), timeout_s=60)
    cancelled(database, parent)
    change(database, child, deadline_at=1.0)

    retried(database, parent)
    assert see(database, child).deadline_at is None


def test_a_revived_child_does_not_miss_a_parent_that_completes_meanwhile(postgres: Database) -> None:
    failed, slow = submit(postgres), submit(postgres)
    child = submit(postgres, parents=(failed, slow))
    claimed = take(postgres, slow)[slow]
    cancelled(postgres, failed)
    with postgres.write() as connection:
        settle(connection, postgres, [ending(claimed)])
        reviving = Background(lambda: retried(postgres, failed))
        assert reviving.waits

    reviving.result()
    assert finish(postgres, failed).freed == (child,)


def test_a_parent_of_very_many_frees_and_cancels_them_all(database: Database) -> None:
    good, bad = submit(database), submit(database)
    of_good = [new_job(parents=(good,)) for _ in range(CHUNK + 10)]
    of_bad = [new_job(parents=(bad,)) for _ in range(CHUNK + 10)]
    accepted(database, *of_good, *of_bad, *(new_job(parents=(child.id,)) for child in of_bad))

    assert len(finish(database, good).freed) == CHUNK + 10
    assert len(cancelled(database, bad)) == 2 * (CHUNK + 10) + 1
    assert retried(database, bad) == [bad]
    assert see(database, of_bad[-1].id).pending_parents == 1
    assert_counters_are_true(database)


def test_the_sweep_releases_a_child_that_nobody_counted_off(database: Database) -> None:
    parent = submit(database)
    child, waiting = submit(database, parents=(parent,)), submit(database, parents=(submit(database),))
    finish(database, parent)
    change(database, child, state="scheduled", pending_parents=1)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE batches SET available = available - 1, scheduled = scheduled + 1")

    with database.write() as connection:
        assert release_forgotten(connection, database) == (1, 0)

    assert states(database, [child, waiting]) == [AVAILABLE, SCHEDULED]
    assert_counters_are_true(database)


def test_the_sweep_cancels_the_children_of_parents_that_failed_unseen(database: Database) -> None:
    one, two, three = chain(database, 3)
    finish(database, one, State.DISCARDED)
    for id_ in (two, three):
        change(database, id_, state="scheduled", error_code=None, finished_at=None)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE batches SET cancelled = cancelled - 2, scheduled = scheduled + 2")

    with database.write() as connection:
        release_forgotten(connection, database)

    assert states(database, [two, three]) == [CANCELLED] * 2
    assert_counters_are_true(database)


def test_the_sweep_walks_on_from_page_to_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundmill.storage.rescue.PAGE", 2)
    chain(database, 6)
    after, pages = 0, 0
    with database.write() as connection:
        while pages == 0 or after:
            moved, after = release_forgotten(connection, database, after)
            assert moved == 0
            pages += 1

    assert pages == 3
