"""Random histories: whatever happens to jobs, in whatever order, some things stay true.

The counters of the batches equal a recount, states move along the arrows of `lifecycle.MOVES`, the
attempt number only grows, and a child runs only after its parents.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, text, update

from soundmill.storage.attempts import Claimed, mark_alone
from soundmill.storage.database import Database
from soundmill.storage.decisions import cancel, retry
from soundmill.storage.errors import StateConflict
from soundmill.storage.lifecycle import MOVES, State
from soundmill.storage.rescue import discard_late, release_forgotten, rescue_expired, rescue_worker, wake_due
from soundmill.storage.rows import Job, JobParent
from soundmill.storage.schema import migrate
from soundmill.storage.window import mark_published, pick, take_turns

from .jobs import WORKER, accepted, counted, end, ending, new_job, recounted, take

ENDS = st.sampled_from(
    [State.COMPLETED, State.COMPLETED, State.RETRYABLE, State.DISCARDED, State.CANCELLED, State.AVAILABLE]
)
LONG_AGO = 1.0


def reachable() -> dict[str, set[str]]:
    """Where a job may be after one transaction: a transaction may make more than one move."""
    found = {state.value: {state.value} | {after.value for after in MOVES[state]} for state in State}
    for state in State:
        for after in list(found[state.value]):
            if after == State.SCHEDULED:  # a retry passes through it
                found[state.value] |= found[after]
    return found


REACHABLE = reachable()


class History(RuleBasedStateMachine):
    """Every rule is one transaction, as some process would make it."""

    database: Database
    jobs = Bundle("jobs")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, tuple[str, int]] = {}
        with self.database.write() as connection:
            for table in ("job_parents", "attempts", "artifacts", "jobs", "batches"):
                connection.execute(text(f"DELETE FROM {table}"))

    @rule(
        target=jobs,
        parents=st.lists(jobs, max_size=3),
        batch=st.sampled_from(["", "a", "b"]),
        delay_s=st.sampled_from([0, 0, 0, 60]),
        timeout_s=st.sampled_from([None, None, 60]),
        count=st.integers(1, 2),
    )
    def submit(
        self, parents: list[str], batch: str, delay_s: float, timeout_s: float | None, count: int
    ) -> object:
        answers = accepted(
            self.database,
            *(
                new_job(parents=tuple(parents), batch=batch, delay_s=delay_s, timeout_s=timeout_s)
                for _ in range(count)
            ),
        )
        return multiple(*(answer.id for answer in answers))

    @rule(target=claims, ids=st.lists(jobs, min_size=1, max_size=4, unique=True), alone=st.booleans())
    def claim(self, ids: list[str], alone: bool) -> object:
        claimed = take(self.database, *ids)
        with self.database.write() as connection:
            for job in claimed.values():
                if alone:
                    mark_alone(connection, job.id, job.attempt)
        return multiple(*claimed.values())

    @rule(claimed=consumes(claims), state=ENDS)
    def settle(self, claimed: Claimed, state: State) -> None:
        end(self.database, ending(claimed, state, charge=state == State.RETRYABLE, backoff_s=60))

    @rule(group=st.lists(claims, max_size=3, unique_by=lambda claimed: claimed.id), state=ENDS)
    def settle_a_group_again_and_again(self, group: list[Claimed], state: State) -> None:
        end(self.database, *(ending(claimed, state) for claimed in group))

    @rule(ids=st.lists(jobs, min_size=1, max_size=3, unique=True))
    def cancel(self, ids: list[str]) -> None:
        with self.database.write() as connection:
            cancel(connection, self.database, ids)

    @rule(ids=st.lists(jobs, min_size=1, max_size=3, unique=True))
    def retry(self, ids: list[str]) -> None:
        try:
            with self.database.write() as connection:
                retry(connection, self.database, ids)
        except StateConflict:
            pass

    @rule(
        ids=st.lists(jobs, min_size=1, max_size=3), name=st.sampled_from(["available", "deadline", "lease"])
    )
    def pass_time(self, ids: list[str], name: str) -> None:
        column = {"available": Job.available_at, "deadline": Job.deadline_at, "lease": Job.lease_until}[name]
        with self.database.write() as connection:
            ours = update(Job).where(Job.id.in_(ids), column.is_not(None))
            connection.execute(ours.values({column.key: LONG_AGO}))

    @rule(crashed=st.booleans())
    def rescue(self, crashed: bool) -> None:
        with self.database.write() as connection:
            rescue_expired(connection, self.database)
        with self.database.write() as connection:
            rescue_worker(connection, self.database, worker=WORKER, crashed=crashed, max_crashes=2)

    @rule()
    def run_the_leaders_errands(self) -> None:
        for errand in (wake_due, discard_late, release_forgotten):
            with self.database.write() as connection:
                errand(connection, self.database)

    @rule(room=st.integers(1, 5))
    def dispatch(self, room: int) -> None:
        with self.database.write() as connection:
            wakes = pick(connection, {("espeak-ng", 6): room})
            mark_published(connection, self.database, wakes)
            take_turns(connection, wakes)

    @invariant()
    def the_counters_equal_a_recount(self) -> None:
        with self.database.read() as connection:
            assert counted(connection) == recounted(connection)

    @invariant()
    def jobs_move_along_the_arrows_and_attempts_only_grow(self) -> None:
        with self.database.read() as connection:
            rows = connection.execute(select(Job.id, Job.state, Job.attempt, Job.finished_at)).all()
        for id_, state, attempt, finished_at in rows:
            old_state, old_attempt = self.seen.get(id_, (state, attempt))
            assert state in REACHABLE[old_state], f"{old_state} → {state}"
            assert attempt >= old_attempt
            assert (finished_at is not None) == State(state).final
            self.seen[id_] = state, attempt

    @invariant()
    def a_child_runs_only_after_its_parents(self) -> None:
        with self.database.read() as connection:
            states = {
                row.id: row for row in connection.execute(select(Job.id, Job.state, Job.pending_parents))
            }
            pairs = connection.execute(select(JobParent.child, JobParent.parent)).all()
        unfinished = {row.id: 0 for row in states.values()}
        for child, parent in pairs:
            unfinished[child] += states[parent].state != State.COMPLETED
            if states[child].state in (State.AVAILABLE, State.EXECUTING, State.COMPLETED, State.RETRYABLE):
                assert states[parent].state == State.COMPLETED
            if states[child].state == State.SCHEDULED:
                assert states[parent].state not in (State.CANCELLED, State.DISCARDED)
        for id_, row in states.items():
            if row.state == State.SCHEDULED:
                assert row.pending_parents == unfinished[id_]


def walk(url: str, examples: int) -> None:
    class Walk(History):
        database = Database(url)

    migrate(Walk.database)
    try:
        run_state_machine_as_test(
            Walk,
            settings=settings(
                max_examples=examples,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        Walk.database.close()


def test_random_histories_on_sqlite() -> None:
    with tempfile.TemporaryDirectory() as folder:
        walk(f"sqlite:///{Path(folder) / 'jobs.db'}", examples=40)


def test_random_histories_on_postgresql(postgres_url: str) -> None:
    walk(postgres_url, examples=10)


@pytest.mark.parametrize("state", list(State))
def test_every_arrow_leads_to_a_state(state: State) -> None:
    assert set(MOVES[state]) <= set(State)
