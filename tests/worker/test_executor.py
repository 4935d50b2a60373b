"""An attempt at a job, from claim to settle."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from soundmill.models.errors import CardFailed, CardSuspect, InputError, OutOfMemory
from soundmill.models.handler import Output, OutputFile, Run
from soundmill.storage.attempts import claim_and_settle
from soundmill.storage.database import Database
from soundmill.storage.decisions import cancel
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import artifacts_of, attempts_of
from soundmill.storage.rows import Artifact, Attempt
from soundmill.worker.executor import EXIT_CARD_FAILED, EXIT_CARD_SUSPECT, WAKES_AT_ONCE, Ending, Report

from ..storage.jobs import (
    Background,
    assert_counters_are_true,
    change,
    field,
    see,
    submit,
    submit_many,
    take,
)
from .bench import WORKER, bench_on, finish, write
from .running import until


def names_of(database: Database, id_: str) -> list[str]:
    with database.read() as connection:
        return sorted(artifact.name for artifact in artifacts_of(connection, id_))


def outcomes_of(database: Database, id_: str) -> list[str]:
    with database.read() as connection:
        return [attempt.outcome for attempt in attempts_of(connection, id_)]


def raising(error: BaseException) -> Any:
    def work(request: Any, run: Run) -> Output:
        raise error

    return work


# -- the way of a job ----------------------------------------------------------------------------------


def test_a_job_is_claimed_performed_and_settled(database: Database, tmp_path: Path) -> None:
    with bench_on(database, tmp_path, write("hello")) as bench:
        id_ = bench.submit(args={"text": "hello"})
        assert bench.executor.execute(id_) == Report(ending=Ending.COMPLETED)
        job = see(database, id_)
        assert (job.state, job.attempt, job.card, job.progress) == (State.COMPLETED, 1, "cpu:0", 1.0)
        assert job.worker == WORKER
        assert outcomes_of(database, id_) == ["completed"]
        assert names_of(database, id_) == ["metrics.json", "out.wav"]
        assert len(bench.attempts) == 0
    assert_counters_are_true(database)


def test_the_metrics_are_on_the_row_and_in_a_file(sqlite: Database, tmp_path: Path) -> None:
    def work(request: Any, run: Run) -> Output:
        with run.phase("generation"):
            time.sleep(0.01)
        return write()(request, run)

    with bench_on(sqlite, tmp_path, work) as bench:
        id_ = bench.submit()
        bench.executor.execute(id_)
        metrics = see(sqlite, id_).metrics
        assert metrics is not None
        assert metrics["generation_s"] >= 0.01
        assert metrics["queue_wait_s"] >= 0
        assert metrics["attempt"] == 1
        assert metrics["audio_s"] == 2.0
        assert 0 < metrics["real_time_factor"] < 100
        with sqlite.read() as connection:
            file = next(a for a in artifacts_of(connection, id_) if a.role == "metrics")
        with bench.blobs.open(file.sha256) as stored:
            assert json.load(stored) == dict(metrics)


@pytest.mark.parametrize(("batch", "wanted"), [("many", True), ("", False)])
def test_a_metrics_file_is_made_for_single_jobs_only_and_if_wanted(
    batch: str, wanted: bool, sqlite: Database, tmp_path: Path
) -> None:
    with bench_on(sqlite, tmp_path, metrics_file=wanted) as bench:
        id_ = bench.submit(batch=batch)
        bench.executor.execute(id_)
        assert names_of(sqlite, id_) == []


def test_a_second_message_for_a_job_does_nothing(database: Database, tmp_path: Path) -> None:
    with bench_on(database, tmp_path) as bench:
        id_ = bench.submit()
        bench.executor.execute(id_)
        for message in (id_, "no such job"):
            assert bench.executor.execute(message) == Report(ending=Ending.NOTHING)
        assert len(bench.puppet.requests) == 1


def test_a_late_settle_adds_neither_artifact_nor_attempt(database: Database, tmp_path: Path) -> None:
    def overtaken(request: Any, run: Run) -> Output:
        change(database, id_, attempt=2, worker="another")
        return write("late")(request, run)

    with bench_on(database, tmp_path, overtaken) as bench:
        id_ = bench.submit()
        assert bench.executor.execute(id_) == Report(ending=Ending.NOTHING)
    assert see(database, id_).state == State.EXECUTING
    assert names_of(database, id_) == []
    assert outcomes_of(database, id_) == []


def test_the_scratch_folder_is_gone_whatever_happened(sqlite: Database, tmp_path: Path) -> None:
    seen: list[Path] = []

    def work(request: Any, run: Run) -> Output:
        seen.append(run.scratch)
        (run.scratch / "litter").write_text("x")
        raise RuntimeError

    with bench_on(sqlite, tmp_path, work) as bench:
        bench.executor.execute(bench.submit())
    assert seen
    assert not seen[0].exists()


# -- inputs --------------------------------------------------------------------------------------------


def test_input_audio_arrives_as_a_path(sqlite: Database, tmp_path: Path) -> None:
    source = tmp_path / "in.wav"
    source.write_bytes(b"a recording")

    def work(request: Any, run: Run) -> Output:
        return Output(result={"heard": request.audio.read_bytes().decode()})

    with bench_on(sqlite, tmp_path, work) as bench:
        sha256 = bench.blobs.put(source).sha256
        id_ = bench.submit(args={"audio": {"artifact": sha256}})
        assert bench.executor.execute(id_).ending == Ending.COMPLETED
        assert see(sqlite, id_).result == {"heard": "a recording"}


def test_the_audio_of_a_parent_is_found_by_its_role(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path, write("spoken")) as bench:
        parent = bench.submit()
        bench.executor.execute(parent)
        bench.puppet.work = lambda request, run: Output(result={"heard": request.audio.read_text()})
        child = bench.submit(args={"audio": {"job": parent}})
        bench.executor.execute(child)
        assert see(sqlite, child).result == {"heard": "spoken"}


def test_a_parent_without_audio_is_the_end_of_the_child(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path, write(role="text")) as bench:
        parent = bench.submit()
        bench.executor.execute(parent)
        child = bench.submit(args={"audio": {"job": parent}})
        assert bench.executor.execute(child) == Report(ending=Ending.DISCARDED, code="input_missing")
        assert see(sqlite, child).error == f"job {parent} made no audio to read"


def test_missing_bytes_are_the_end_of_a_job(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path) as bench:
        id_ = bench.submit(args={"audio": {"artifact": "0" * 64}})
        assert bench.executor.execute(id_) == Report(ending=Ending.DISCARDED, code="input_missing")


def test_arguments_that_can_no_longer_be_read_are_the_end_of_a_job(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path) as bench:
        id_ = bench.submit(args_version=99)
        assert bench.executor.execute(id_) == Report(ending=Ending.DISCARDED, code="bad_input")
        assert "submit the job again" in str(see(sqlite, id_).error)


# -- what goes wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "ending", "state", "outcome"),
    [
        (InputError("speak up"), Ending.DISCARDED, State.DISCARDED, "discarded"),
        (OutOfMemory("full"), Ending.RETRYABLE, State.RETRYABLE, "failed"),
        (RuntimeError("odd"), Ending.RETRYABLE, State.RETRYABLE, "failed"),
        (SystemExit(3), Ending.RETRYABLE, State.RETRYABLE, "failed"),
    ],
)
def test_an_error_is_written_down_as_the_table_says(
    error: BaseException, ending: Ending, state: State, outcome: str, database: Database, tmp_path: Path
) -> None:
    with bench_on(database, tmp_path, raising(error)) as bench:
        id_ = bench.submit()
        assert bench.executor.execute(id_).ending == ending
        assert see(database, id_).state == state
        assert outcomes_of(database, id_) == [outcome]
    assert_counters_are_true(database)


@pytest.mark.parametrize(
    ("error", "status"),
    [(CardFailed("smoke"), EXIT_CARD_FAILED), (CardSuspect("HBM MULTI BIT ECC ERROR"), EXIT_CARD_SUSPECT)],
)
def test_a_failed_card_ends_the_process_and_leaves_the_row_to_the_supervisor(
    error: CardFailed, status: int, sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(Exception):
        """The process would have ended here."""

    def leave(with_status: int) -> None:
        assert with_status == status
        raise Left

    monkeypatch.setattr("os._exit", leave)
    with bench_on(sqlite, tmp_path, raising(error)) as bench:
        id_ = bench.submit()
        with pytest.raises(Left):
            bench.executor.execute(id_)
        assert see(sqlite, id_).state == State.EXECUTING


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": object()}, ["no", "mapping"]])
def test_a_result_that_cannot_be_stored_is_the_end_of_its_job(
    bad: Any, database: Database, tmp_path: Path
) -> None:
    def work(request: Any, run: Run) -> Output:
        return Output(result=bad, files=write()(request, run).files)

    with bench_on(database, tmp_path, work) as bench:
        id_ = bench.submit()
        assert bench.executor.execute(id_) == Report(ending=Ending.DISCARDED, code="unstorable_result")
        assert outcomes_of(database, id_) == ["discarded"]
        assert names_of(database, id_) == []


def test_metrics_that_are_no_json_are_the_end_of_their_job(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path, lambda r, run: Output(result={}, metrics={"x": float("inf")})) as bench:
        assert bench.executor.execute(bench.submit()).code == "unstorable_result"


def test_two_files_of_one_name_are_the_end_of_their_job(sqlite: Database, tmp_path: Path) -> None:
    def work(request: Any, run: Run) -> Output:
        files = []
        for text in ("one", "two"):
            path = run.scratch / text
            path.write_text(text)
            files.append(OutputFile(name="same", path=path, media_type="-", role="-"))
        return Output(result={}, files=tuple(files))

    with bench_on(sqlite, tmp_path, work) as bench:
        id_ = bench.submit()
        assert bench.executor.execute(id_).code == "unstorable_result"
        assert names_of(sqlite, id_) == []


def test_a_settlement_that_no_database_takes_is_given_up_instead_of_tried_for_ever(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(connection: Any, database: Any, claims: Any, settlements: Any) -> Any:
        if settlements:
            raise ValueError("no table")
        return claim_and_settle(connection, database, claims, settlements)

    with bench_on(sqlite, tmp_path) as bench:
        id_ = bench.submit()
        monkeypatch.setattr("soundmill.worker.ledger.claim_and_settle", refuse)
        assert bench.executor.execute(id_) == Report(ending=Ending.NOTHING)
        assert len(bench.attempts) == 0


def test_a_closed_ledger_leaves_the_job_to_others(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path) as bench:
        id_ = bench.submit()
        bench.ledger.close()
        assert bench.executor.execute(id_) == Report(ending=Ending.HANDED_BACK)
        assert see(sqlite, id_).state == State.AVAILABLE


# -- stopping ------------------------------------------------------------------------------------------


def stepping(request: Any, run: Run) -> Output:
    for _ in range(1000):
        run.checkpoint()
        time.sleep(0.005)
    return Output(result={})


def test_a_cancelled_attempt_settles_as_cancelled(database: Database, tmp_path: Path) -> None:
    with bench_on(database, tmp_path, stepping) as bench:
        id_ = bench.submit()
        running = Background(lambda: bench.executor.execute(id_))
        until(lambda: len(bench.attempts) == 1, 10)
        bench.attempts.cancel([(id_, 1)])
        assert running.result() == Report(ending=Ending.CANCELLED, code="cancelled")
        assert see(database, id_).state == State.CANCELLED
        assert outcomes_of(database, id_) == ["cancelled"]


def test_a_cancel_between_the_last_checkpoint_and_the_settle_still_counts(
    sqlite: Database, tmp_path: Path
) -> None:
    def work(request: Any, run: Run) -> Output:
        bench.attempts.cancel([(id_, 1)])
        return write()(request, run)

    with bench_on(sqlite, tmp_path, work) as bench:
        id_ = bench.submit()
        assert bench.executor.execute(id_).ending == Ending.CANCELLED
        assert names_of(sqlite, id_) == []


def test_a_cancel_that_the_worker_has_not_heard_of_counts_at_the_settle(
    database: Database, tmp_path: Path
) -> None:
    def work(request: Any, run: Run) -> Output:
        with database.write() as connection:
            cancel(connection, database, [id_])
        return write()(request, run)

    with bench_on(database, tmp_path, work) as bench:
        id_ = bench.submit()
        assert bench.executor.execute(id_) == Report(ending=Ending.CANCELLED, code="cancelled")
        assert see(database, id_).state == State.CANCELLED
        assert names_of(database, id_) == []


def test_a_stopping_worker_hands_back_and_charges_nothing(database: Database, tmp_path: Path) -> None:
    with bench_on(database, tmp_path, stepping) as bench:
        id_ = bench.submit()
        running = Background(lambda: bench.executor.execute(id_))
        until(lambda: len(bench.attempts) == 1, 10)
        bench.attempts.hand_back_all()
        assert running.result() == Report(ending=Ending.HANDED_BACK)
        job = see(database, id_)
        assert (job.state, job.attempt, job.failures) == (State.AVAILABLE, 1, 0)
        assert field(database, id_, "published_at") is None
        late = bench.submit()
        assert bench.executor.execute(late).ending == Ending.HANDED_BACK
        assert [request.text for request in bench.puppet.requests] == [""]


def test_a_job_past_its_deadline_is_not_performed(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path) as bench:
        id_ = bench.submit(timeout_s=0.01)
        time.sleep(0.05)
        assert bench.executor.execute(id_) == Report(ending=Ending.NOTHING)
        assert bench.puppet.requests == []


# -- slots and suspects --------------------------------------------------------------------------------


class Crowd:
    """Work that counts how many are at it at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, request: Any, run: Run) -> Output:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self._lock:
            self.now -= 1
        return Output(result={})


def test_a_handler_never_has_more_requests_than_slots(sqlite: Database, tmp_path: Path) -> None:
    crowd = Crowd()
    with bench_on(sqlite, tmp_path, crowd, slots=2) as bench:
        ids = [bench.submit() for _ in range(8)]
        running = [Background(lambda id_=id_: bench.executor.execute(id_)) for id_ in ids]  # type: ignore[misc]
        assert {one.result().ending for one in running} == {Ending.COMPLETED}
    assert crowd.most == 2


def test_a_job_that_waits_for_a_slot_can_be_stopped(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path, stepping, slots=1) as bench:
        first, second = bench.submit(), bench.submit()
        running = Background(lambda: bench.executor.execute(first))
        until(lambda: len(bench.puppet.requests) == 1, 10)
        waiting = Background(lambda: bench.executor.execute(second))
        until(lambda: len(bench.attempts) == 2, 10)
        bench.attempts.cancel([(second, 1)])
        assert waiting.result().ending == Ending.CANCELLED
        bench.attempts.hand_back_all()
        running.result()
        assert len(bench.puppet.requests) == 1


def test_a_suspect_runs_alone_and_is_marked_so_before_it_begins(sqlite: Database, tmp_path: Path) -> None:
    crowd, marks = Crowd(), []

    def work(request: Any, run: Run) -> Output:
        if request.text == "suspect":
            marks.append((crowd.now, field(sqlite, suspect, "alone")))
        return crowd(request, run)

    with bench_on(sqlite, tmp_path, work, slots=4) as bench:
        ids = [bench.submit() for _ in range(4)]
        suspect = bench.submit(args={"text": "suspect"})
        change(sqlite, suspect, suspect=True)
        running = [
            Background(lambda id_=id_: bench.executor.execute(id_))  # type: ignore[misc]
            for id_ in [*ids[:2], suspect, *ids[2:]]
        ]
        assert {one.result().ending for one in running} == {Ending.COMPLETED}
    assert marks == [(0, True)]
    assert field(sqlite, suspect, "suspect") is False


# -- children ------------------------------------------------------------------------------------------


def test_freed_children_are_published_at_once(database: Database, tmp_path: Path) -> None:
    with bench_on(database, tmp_path) as bench:
        parent = bench.submit()
        child = bench.submit(parents=(parent,))
        bench.executor.execute(parent)
        assert [wake.id for wake in bench.mailbox.sent] == [child]
        assert see(database, child).state == State.AVAILABLE
        assert field(database, child, "published_at") is not None


def test_children_wait_for_the_dispatcher_where_redis_is_away(database: Database, tmp_path: Path) -> None:
    with bench_on(database, tmp_path) as bench:
        bench.mailbox.dead = True
        parent = bench.submit()
        child = bench.submit(parents=(parent,))
        assert bench.executor.execute(parent).ending == Ending.COMPLETED
        assert see(database, child).state == State.AVAILABLE
        assert field(database, child, "published_at") is None


def test_a_parent_of_many_leaves_most_of_them_to_the_dispatcher(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path) as bench:
        parent = bench.submit()
        submit_many(sqlite, WAKES_AT_ONCE + 10, parents=(parent,), model="puppet")
        bench.executor.execute(parent)
        assert len(bench.mailbox.sent) == WAKES_AT_ONCE


def test_a_discarded_parent_takes_its_children_along(database: Database, tmp_path: Path) -> None:
    with bench_on(database, tmp_path, raising(InputError("no"))) as bench:
        parent = bench.submit()
        child = bench.submit(parents=(parent,))
        bench.executor.execute(parent)
        assert (see(database, child).state, see(database, child).error_code) == (
            State.CANCELLED,
            "parent_failed",
        )
        assert bench.mailbox.sent == []
    assert_counters_are_true(database)


def test_what_lies_in_the_table_of_a_foreign_worker_is_not_touched(sqlite: Database, tmp_path: Path) -> None:
    with bench_on(sqlite, tmp_path, finish) as bench:
        id_ = submit(sqlite, model="puppet")
        take(sqlite, id_, worker="other")
        assert bench.executor.execute(id_) == Report(ending=Ending.NOTHING)
    with sqlite.read() as connection:
        assert connection.execute(select(Attempt)).all() == []
        assert connection.execute(select(Artifact)).all() == []
