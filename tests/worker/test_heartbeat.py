"""The heartbeat: leases renewed, cancels and losses heard of, the worker reported."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from soundmill.models.errors import Cancelled, LeaseLost
from soundmill.storage.database import Database
from soundmill.storage.decisions import cancel, set_draining
from soundmill.storage.errors import StorageUnavailable
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import WorkerView, workers
from soundmill.worker.attempt import Attempt, Attempts
from soundmill.worker.heartbeat import Heartbeat, Identity
from soundmill.worker.pulse import Pulse

from ..storage.jobs import change, field, see, submit, take
from .running import until

WORKER = "cpu-0@here#1"
LEASE_S = 30.0


class Patient:
    """A heartbeat and the attempts that it keeps alive."""

    def __init__(self, database: Database, every_s: float = 10.0) -> None:
        self.database = database
        self.attempts = Attempts()
        self.draining: list[bool] = []
        self.pulse = Pulse(None)
        identity = Identity(
            name="cpu-0@here", incarnation=WORKER, host="here", card="cpu:0", models=("espeak-ng",), slots=3
        )
        self.heartbeat = Heartbeat(
            database,
            identity,
            self.attempts,
            every_s=every_s,
            lease_s=LEASE_S,
            on_draining=self.draining.append,
        )

    def run(self, stack: ExitStack, step_s: float = 60.0, **changes: Any) -> Attempt:
        id_ = submit(self.database, **changes)
        claimed = take(self.database, id_, worker=WORKER, lease_s=1.0)[id_]
        attempt = Attempt(claimed, self.pulse, step_limit_s=step_s, load_limit_s=600)
        stack.enter_context(self.attempts.holding(attempt))
        stack.enter_context(attempt.watched())
        return attempt

    def report(self) -> WorkerView:
        with self.database.read() as connection:
            return workers(connection, self.database)[0]


@pytest.fixture
def patient(database: Database) -> Patient:
    return Patient(database)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_beat_renews_the_leases_and_writes_the_progress(patient: Patient, stack: ExitStack) -> None:
    one, other = patient.run(stack), patient.run(stack)
    one.checkpoint(0.5, {"frames": 12, "audio_s": 0.96})
    before = field(patient.database, one.job.id, "lease_until")
    patient.heartbeat.beat()
    assert field(patient.database, one.job.id, "lease_until") > before + 20
    assert see(patient.database, one.job.id).progress == 0.5
    assert see(patient.database, one.job.id).metrics == {"frames": 12, "audio_s": 0.96}
    assert see(patient.database, other.job.id).progress is None
    assert see(patient.database, other.job.id).metrics is None
    one.raise_if_stopped()
    other.raise_if_stopped()


def test_an_attempt_whose_job_went_on_without_it_is_dropped(patient: Patient, stack: ExitStack) -> None:
    lost, kept = patient.run(stack), patient.run(stack)
    change(patient.database, lost.job.id, state=State.AVAILABLE.value)
    patient.heartbeat.beat()
    with pytest.raises(LeaseLost):
        lost.raise_if_stopped()
    kept.raise_if_stopped()


def test_a_job_that_another_worker_has_now_is_dropped(patient: Patient, stack: ExitStack) -> None:
    lost = patient.run(stack)
    change(patient.database, lost.job.id, worker="another", attempt=2)
    patient.heartbeat.beat()
    with pytest.raises(LeaseLost):
        lost.raise_if_stopped()


def test_a_cancel_in_the_table_stops_the_attempt(patient: Patient, stack: ExitStack) -> None:
    one, other = patient.run(stack), patient.run(stack)
    with patient.database.write() as connection:
        cancel(connection, patient.database, [one.job.id])
    patient.heartbeat.beat()
    with pytest.raises(Cancelled):
        one.raise_if_stopped()
    other.raise_if_stopped()


def test_a_stuck_attempt_loses_its_lease(patient: Patient, stack: ExitStack) -> None:
    stuck = patient.run(stack, step_s=0.01)
    before = field(patient.database, stuck.job.id, "lease_until")
    until(lambda: stuck.stuck, 10)
    patient.heartbeat.beat()
    assert field(patient.database, stuck.job.id, "lease_until") == before


def test_the_worker_is_reported_and_leaves_its_report_when_it_goes(patient: Patient) -> None:
    patient.heartbeat.start()
    report = patient.report()
    assert (report.card, report.models, report.slots, report.live) == ("cpu:0", ["espeak-ng"], 3, True)
    patient.heartbeat.stop()
    assert not patient.report().live


def test_draining_is_heard_of_and_outlives_the_reports(patient: Patient) -> None:
    patient.heartbeat.beat()
    with patient.database.write() as connection:
        set_draining(connection, "cpu:0", draining=True)
    patient.heartbeat.beat()
    patient.heartbeat.beat()
    assert patient.draining == [False, True, True]
    assert patient.report().draining


def test_a_beat_without_a_database_says_so_and_drops_nothing(sqlite: Database, stack: ExitStack) -> None:
    patient = Patient(sqlite)
    one = patient.run(stack)
    connection = sqlite3.connect(str(sqlite.url.database), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageUnavailable):
        patient.heartbeat.beat()
    connection.rollback()
    connection.close()
    one.raise_if_stopped()


def test_the_thread_goes_on_after_an_outage(sqlite: Database) -> None:
    patient = Patient(sqlite, every_s=0.05)
    patient.heartbeat.start()
    connection = sqlite3.connect(str(sqlite.url.database), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    until(lambda: True, 1)
    beats = len(patient.draining)
    connection.rollback()
    connection.close()
    until(lambda: len(patient.draining) > beats + 2, 20)
    patient.heartbeat.stop()
