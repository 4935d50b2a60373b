"""The chaos run, a short one: faults strike, every promise holds, and its judge is not blind."""

from __future__ import annotations

import copy
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAOS = ROOT / "benchmarks" / "chaos.py"

FAULTS = "worker SIGKILL,worker SIGTERM,redis FLUSHALL,redis cut,producer SIGKILL,disk full"

Tampering = Callable[[dict[str, Any]], None]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(folder: Path, database: str, *more: str) -> dict[str, Any]:
    """A run without the engine, so without torch; return what it left behind. It has to have held."""
    size = ["--jobs", "240", "--faults", "4", "--span", "7", "--workers", "2", "--no-engine"]
    command = [sys.executable, str(CHAOS), "--database", database, "--history", str(folder), *size]
    # What is promised within seconds is measured on a quiet machine, which this need not be.
    command += ["--patience", "50", "--only", FAULTS, *more]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    evidence: dict[str, Any] = json.loads((folder / f"{database}-1.json").read_text())
    return evidence


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run on SQLite left behind."""
    return run(tmp_path_factory.mktemp("chaos"), "sqlite")


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], list[str]]]:
    """The judge's broken promises of what was left behind."""
    monkeypatch.syspath_prepend(str(CHAOS.parent / "chaos_parts"))
    checker, evidence = importlib.import_module("checker"), importlib.import_module("evidence")
    yield lambda facts: checker.judge(evidence.Evidence(**facts))[0]
    for name in ("checker", "evidence", "measures"):
        del sys.modules[name]


def test_faults_by_chance_lose_and_double_nothing(left_behind: dict[str, Any]) -> None:
    assert sum(fault["delivered"] for fault in left_behind["faults"]) == 4
    assert len(left_behind["jobs"]) > 240
    assert {"completed", "cancelled"} <= {job["state"] for job in left_behind["jobs"]}


@pytest.mark.usefixtures("postgres_session")
def test_the_same_holds_on_postgresql(tmp_path: Path) -> None:
    fewer = ["--jobs", "200", "--faults", "3", "--span", "5"]
    left = run(tmp_path, "postgres", *fewer, "--only", "database crash,database cut,worker SIGKILL")

    assert sum(fault["delivered"] for fault in left["faults"]) == 3


def completed(facts: dict[str, Any]) -> dict[str, Any]:
    job: dict[str, Any] = next(job for job in facts["jobs"] if job["state"] == "completed")
    return job


def audio_of(facts: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(
        artifact
        for artifact in facts["artifacts"]
        if artifact["job_id"] == job["id"] and artifact["role"] == "audio"
    )
    return found


def _a_job_without_a_row(facts: dict[str, Any]) -> None:
    facts["jobs"].remove(completed(facts))


def _a_job_twice(facts: dict[str, Any]) -> None:
    facts["jobs"].append(completed(facts) | {"id": "another"})


def _a_job_that_runs_for_ever(facts: dict[str, Any]) -> None:
    completed(facts)["state"] = "executing"


def _a_second_completion(facts: dict[str, Any]) -> None:
    job = completed(facts)
    last = next(a for a in facts["attempts"] if a["job_id"] == job["id"] and a["attempt"] == job["attempt"])
    facts["attempts"].append(last | {"attempt": job["attempt"] + 1})


def _a_second_execution(facts: dict[str, Any]) -> None:
    facts["executions"] += [event for event in facts["executions"] if event["what"] == "begin"][:1]


def _a_file_of_a_stale_attempt(facts: dict[str, Any]) -> None:
    audio_of(facts, completed(facts))["attempt"] -= 1


def _a_file_that_the_winner_did_not_make(facts: dict[str, Any]) -> None:
    one = audio_of(facts, completed(facts))
    one["sha256"] = next(a["sha256"] for a in facts["artifacts"] if a["sha256"] != one["sha256"])


def _a_file_that_is_gone(facts: dict[str, Any]) -> None:
    del facts["files"][audio_of(facts, completed(facts))["sha256"]]


def _a_file_that_is_damaged(facts: dict[str, Any]) -> None:
    facts["files"][audio_of(facts, completed(facts))["sha256"]]["sound"] = False


def _a_file_that_nobody_refers_to(facts: dict[str, Any]) -> None:
    facts["files"]["f" * 64] = {"sound": True, "size": 1, "head": None}


def _a_completion_after_a_cancel(facts: dict[str, Any]) -> None:
    job = completed(facts)
    told = {"what": "cancelled", "ids": [job["id"]], "t": job["finished_at"] - 1.0, "producer": 0}
    facts["answers"] = [
        answer for answer in facts["answers"] if answer["what"] not in ("cancelled", "retrying")
    ]
    facts["answers"].append(told)


def _half_a_transaction(facts: dict[str, Any]) -> None:
    facts["faults"][0]["facts"]["half_written"] = ["3 of the 40 jobs of chunk 2"]


def _a_counter_that_is_off(facts: dict[str, Any]) -> None:
    facts["batches"][0]["completed"] += 1


def _a_job_of_a_higher_step_that_waits(facts: dict[str, Any]) -> None:
    begun = [event for event in facts["executions"] if event["what"] == "begin"]
    low, high = begun[0], begun[1]
    low |= {"priority": 0, "started_at": 5e9 + 2000.0}
    high |= {"priority": 9, "model": low["model"], "available_at": 5e9, "started_at": 5e9 + 3000.0}


def _more_work_for_nothing_than_was_in_flight(facts: dict[str, Any]) -> None:
    for fault in facts["faults"]:
        fault["in_flight"] = 0
    job = completed(facts)
    for attempt in facts["attempts"]:
        if attempt["job_id"] == job["id"]:
            attempt["outcome"] = "lost"


def _a_late_rescue(facts: dict[str, Any]) -> None:
    job = completed(facts)
    last = max(fault["until"] for fault in facts["faults"])
    facts["attempts"].append(
        {"job_id": job["id"], "attempt": 0, "worker": "w", "outcome": "lost", "error_code": None,
         "started_at": last - 1.0, "finished_at": last + 6000.0}
    )  # fmt: skip


def _a_worker_that_does_nothing_any_more(facts: dict[str, Any]) -> None:
    facts["run"]["probe"]["cards"].pop()


@pytest.mark.parametrize(
    ("tampering", "words"),
    [
        (_a_job_without_a_row, "lost: key .* has 0 rows"),
        (_a_job_twice, "lost: key .* has 2 rows"),
        (_a_job_that_runs_for_ever, "is executing at the end"),
        (_a_second_completion, "doubled: job .* completed at"),
        (_a_second_execution, "was executed 2 times"),
        (_a_file_of_a_stale_attempt, "stale: job .* of attempt"),
        (_a_file_that_the_winner_did_not_make, "did not make"),
        (_a_file_that_is_gone, "is not stored"),
        (_a_file_that_is_damaged, "does not match its hash"),
        (_a_file_that_nobody_refers_to, "orphaned"),
        (_a_completion_after_a_cancel, "after its cancel was acknowledged"),
        (_half_a_transaction, "half a transaction"),
        (_a_counter_that_is_off, "counts"),
        (_a_job_of_a_higher_step_that_waits, "of a higher step had waited, one"),
        (_more_work_for_nothing_than_was_in_flight, "executions were for nothing"),
        (_a_late_rescue, "recovery took"),
        (_a_worker_that_does_nothing_any_more, "only .* did anything"),
    ],
)
def test_the_judge_sees_what_is_wrong(
    tampering: Tampering, words: str, left_behind: dict[str, Any], judge: Callable[[Any], list[str]]
) -> None:
    facts = copy.deepcopy(left_behind)
    assert judge(facts) == []

    tampering(facts)

    assert any(re.search(words, sentence) for sentence in judge(facts)), judge(facts)
