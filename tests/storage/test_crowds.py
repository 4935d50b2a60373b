"""Many at once: threads that submit, work, cancel, retry and rescue on one job table, all together.

Whoever gets in whose way: nothing fails, no attempt is settled twice, and at the end everything adds up.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from functools import partial

from sqlalchemy import func, select

from soundmill.storage.attempts import Claimed, Claims, claim, claim_and_settle, settle
from soundmill.storage.database import Database
from soundmill.storage.decisions import cancel, retry
from soundmill.storage.errors import NotFound, StateConflict
from soundmill.storage.leases import Progress, keep
from soundmill.storage.lifecycle import FAILED, State
from soundmill.storage.rescue import release_forgotten, rescue_expired, wake_due
from soundmill.storage.retention import Policy, walk
from soundmill.storage.rows import Attempt, Job, JobParent
from soundmill.storage.submission import accept
from soundmill.storage.window import mark_published, pick, take_turns

from .jobs import CARD, Background, assert_counters_are_true, change, ending, new_job

ROUNDS = 40
ENDS = [*[State.COMPLETED] * 4, State.RETRYABLE, State.DISCARDED, State.AVAILABLE]


class Crowd:
    """One thread's work: each operation in a transaction of its own, done again after a deadlock."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database = database
        self.rng = random.Random(seed)
        self.settled: list[tuple[str, int]] = []

    def some_ids(self, *states: State, count: int = 4) -> list[str]:
        with self.database.read() as connection:
            ids = list(connection.execute(select(Job.id).where(Job.state.in_(states))).scalars())
        return self.rng.sample(ids, min(count, len(ids)))

    def run(self) -> list[tuple[str, int]]:
        steps = [
            self.submit,
            self.submit,
            self.work,
            self.work,
            self.work,
            self.cancel,
            self.retry,
            self.lead,
        ]
        for _ in range(ROUNDS):
            self.rng.choice(steps)()
        return self.settled

    def submit(self) -> None:
        parents = tuple(self.some_ids(*State, count=self.rng.randrange(3)))
        jobs = [new_job(parents=parents, batch=batch) for batch in self.rng.choices("abc", k=3)]
        child = new_job(parents=(jobs[0].id,))
        self.database.retrying(lambda c: accept(c, self.database, [*jobs, child]))

    def work(self) -> None:
        ids = self.some_ids(State.AVAILABLE)
        claimed = self.database.retrying(
            lambda c: claim(c, self.database, ids, worker="w", card=CARD, lease_s=30)
        )
        ends = [ending(job, self.rng.choice(ENDS)) for job in claimed.values() if self.rng.random() < 0.9]
        done = self.database.retrying(lambda c: settle(c, self.database, ends))
        self.settled += [(s.id, s.attempt) for s in ends if s.id in done.applied]

    def cancel(self) -> None:
        ids = self.some_ids(*State, count=2)
        self.database.retrying(lambda c: cancel(c, self.database, ids))

    def retry(self) -> None:
        ids = self.some_ids(*FAILED, count=2)
        with contextlib.suppress(StateConflict):  # somebody else was quicker
            self.database.retrying(lambda c: retry(c, self.database, ids))

    def lead(self) -> None:
        for state, column in ((State.RETRYABLE, "available_at"), (State.EXECUTING, "lease_until")):
            for id_ in self.some_ids(state):
                change(self.database, id_, **{column: 1.0})
        for errand in (rescue_expired, wake_due, release_forgotten):
            self.database.retrying(lambda c, errand=errand: errand(c, self.database))  # type: ignore[misc]
        with self.database.read() as connection:
            wakes = pick(connection, {("espeak-ng", 6): 5})
        self.database.retrying(lambda c: mark_published(c, self.database, wakes))
        self.database.retrying(lambda c: take_turns(c, wakes))


class Hall:
    """What goes on all the time around one worker, each in a thread; nobody does anything again."""

    def __init__(self, database: Database, ids: list[str]) -> None:
        self.database = database
        self.ids = ids
        self.finished = threading.Event()

    def groups(self, seed: int) -> None:
        """Claims and settles together, as a worker's ledger writes them."""
        rng, held = random.Random(seed), dict[str, Claimed]()
        for start in range(0, len(self.ids), 8):
            wanted = Claims(ids=self.ids[start : start + 8], worker="w", card=CARD, lease_s=30)
            ends = [ending(job, rng.choice(ENDS)) for job in held.values()]
            with self.database.write() as connection:
                held, _ = claim_and_settle(connection, self.database, wanted, ends)

    def heartbeat(self) -> None:
        while not self.finished.is_set():
            attempts = {(id_, 1): Progress() for id_ in self.ids}
            with self.database.write() as connection:
                keep(connection, self.database, attempts, worker="w", lease_s=30)

    def dispatch(self) -> None:
        while not self.finished.is_set():
            with self.database.read() as connection:
                wakes = pick(connection, {("espeak-ng", 6): 50})
            with self.database.write() as connection:
                mark_published(connection, self.database, wakes)
            with self.database.write() as connection:
                take_turns(connection, wakes)

    def decide(self) -> None:
        rng = random.Random(0)
        while not self.finished.is_set():
            ids = rng.sample(self.ids, 6)
            # One of them may have been pruned.
            with contextlib.suppress(NotFound), self.database.write() as connection:
                cancel(connection, self.database, ids)

    def prune(self) -> None:
        """What ended goes at once, and the batches that are empty with it."""
        policy = Policy(kept_s=dict.fromkeys(("completed", "discarded", "cancelled"), 0.0))
        while not self.finished.is_set():
            for _ in walk(self.database, policy):
                pass

    def submit(self) -> None:
        rng = random.Random(1)
        while not self.finished.is_set():
            jobs = [new_job(batch=batch) for batch in rng.sample("abcd", k=3)]
            with self.database.write() as connection:
                accept(connection, self.database, jobs)


def test_whatever_goes_on_around_a_worker_no_two_wait_for_each_other_in_a_circle(postgres: Database) -> None:
    with postgres.write() as connection:
        jobs = [new_job(batch=batch) for batch in random.Random(2).choices("abcd", k=600)]
        accept(connection, postgres, jobs)
    hall = Hall(postgres, [job.id for job in jobs])
    around = [Background(work) for work in (hall.heartbeat, hall.dispatch, hall.decide, hall.submit)]
    for worker in [Background(partial(hall.groups, seed)) for seed in range(2)]:
        worker.result()
    hall.finished.set()
    for thread in around:
        thread.result()
    assert_counters_are_true(postgres)


def test_nothing_that_is_pruned_meanwhile_gets_in_anybodys_way(postgres: Database) -> None:
    with postgres.write() as connection:
        jobs = [new_job(batch=batch) for batch in random.Random(2).choices("abcd", k=300)]
        accept(connection, postgres, jobs)
    hall = Hall(postgres, [job.id for job in jobs])
    around = [Background(work) for work in (hall.heartbeat, hall.prune, hall.prune, hall.decide, hall.submit)]
    for worker in [Background(partial(hall.groups, seed)) for seed in range(2)]:
        worker.result()
    hall.finished.set()
    for thread in around:
        thread.result()
    assert_counters_are_true(postgres)
    with postgres.read() as connection:
        left = select(func.count()).select_from(Job).where(Job.id.in_(hall.ids))
        assert connection.execute(left).scalar_one() < len(jobs)


def test_a_crowd_leaves_a_table_that_adds_up(database: Database) -> None:
    crowds = [Crowd(database, seed) for seed in range(4)]
    threads = [Background(partial(Crowd.run, crowd)) for crowd in crowds]
    settled = Counter(attempt for thread in threads for attempt in thread.result())

    assert settled
    assert set(settled.values()) == {1}
    assert_counters_are_true(database)
    with database.write() as connection:
        release_forgotten(connection, database)
    assert_counters_are_true(database)
    with database.read() as connection:
        attempts = connection.execute(select(Attempt.job_id, Attempt.attempt))
        assert settled.keys() <= {(job, attempt) for job, attempt in attempts}
        parent = select(Job.id, Job.state).subquery()
        early = (
            select(func.count())
            .select_from(JobParent)
            .join(Job, Job.id == JobParent.child)
            .join(parent, parent.c.id == JobParent.parent)
            .where(parent.c.state != State.COMPLETED, Job.state.in_([State.AVAILABLE, State.COMPLETED]))
        )
        assert connection.execute(early).scalar_one() == 0
