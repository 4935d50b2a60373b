"""The counters of batches."""

from __future__ import annotations

from soundmill.storage.attempts import claim
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import batch_counts
from soundmill.storage.tally import Tally

from .jobs import CARD, WORKER, Background, assert_counters_are_true, submit, submit_many


def test_moves_are_written_once_for_each_batch(database: Database) -> None:
    for batch in "ab":
        submit(database, batch=batch)
    with database.write() as connection:
        tally = Tally()
        tally.add("default/a", State.SCHEDULED, 3)
        tally.move("default/a", State.SCHEDULED, State.AVAILABLE, 2)
        tally.move("default/b", State.AVAILABLE, State.EXECUTING)
        tally.write(connection)
    with database.read() as connection:
        counts = batch_counts(connection, "default")

    assert (counts["a"][State.SCHEDULED], counts["a"][State.AVAILABLE]) == (1, 3)
    assert (counts["b"][State.AVAILABLE], counts["b"][State.EXECUTING]) == (0, 1)


def test_nothing_is_written_where_nothing_moved(database: Database) -> None:
    with database.write() as connection:
        tally = Tally()
        tally.move("nowhere", State.AVAILABLE, State.EXECUTING)
        tally.move("nowhere", State.EXECUTING, State.AVAILABLE)
        tally.write(connection)


def test_transactions_that_touch_the_same_batches_in_other_orders_do_not_deadlock(postgres: Database) -> None:
    """The counters are locked in the order of the batches, whatever the order of the jobs."""
    lists = [[submit_many(postgres, 8, batch=batch) for batch in batches] for batches in ("ab", "ba")]

    def claim_all(jobs: list[list[str]]) -> None:
        for pair in zip(*jobs, strict=True):
            with postgres.write() as connection:
                claim(connection, postgres, pair, worker=WORKER, card=CARD, lease_s=30)

    threads = [Background(lambda jobs=jobs: claim_all(jobs)) for jobs in lists]  # type: ignore[misc]
    for thread in threads:
        thread.result()
    assert_counters_are_true(postgres)
