"""The whole way as a person walks it: a manifest of 500 lines, two cards, interruptions, the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from soundmill.storage.blobs import open_blobs
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import JobView, artifacts_of, attempts_of, page_of_jobs
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings

from .worker.running import stopped, told, until

LINES = 500

CORPUS = Path(__file__).parent / "data" / "corpus" / "sentences.jsonl"


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        database_url=database_url,
        lease_s=5.0,
        heartbeat_s=1.0,
        reaper_s=1.0,
        leader_lease_s=3.0,
        shutdown_grace_s=5.0,
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url)
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def two_cards(settings: Settings, database: Database) -> Iterator[psutil.Process]:
    command = [
        sys.executable,
        "-m",
        "soundmill.worker",
        "up",
        "--no-flower",
        "--ephemeral",
        "--card",
        "cpu:0,cpu:1",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | settings.environment())
    until(lambda: _live_workers(database) == 2, 60)
    yield psutil.Process(process.pid)
    process.communicate(timeout=60)
    assert process.returncode == 0


def _live_workers(database: Database) -> int:
    with database.read() as connection:
        return int(
            connection.exec_driver_sql("SELECT count(*) FROM workers WHERE heartbeat_at > 0").scalar_one()
        )


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Five hundred sentences that people wrote, 125 in each of four languages."""
    path = tmp_path / "sentences.jsonl"
    lines = CORPUS.read_text(encoding="utf-8").splitlines(keepends=True)[:LINES]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _submit(manifest: Path, settings: Settings) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "soundmill.producer",
        "submit",
        str(manifest),
        "--model",
        "espeak-ng",
        "--json",
    ]
    environment = os.environ | settings.environment()
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _jobs(database: Database, state: State | None = None) -> list[JobView]:
    with database.read() as connection:
        return page_of_jobs(connection, states=[state] if state else (), limit=10 * LINES)


def _kill_a_card_at_work(supervisor: psutil.Process, database: Database) -> int:
    """Kill -9 a card while it holds jobs; return how many it held."""
    for _ in range(200):
        cards = [child for child in supervisor.children() if "soundmill.worker.card" in child.cmdline()]
        for card in cards:
            with stopped(card):
                name = card.cmdline()[card.cmdline().index("--incarnation") + 1]
                held = sum(job.worker == name for job in _jobs(database, State.EXECUTING))
                if held:
                    card.kill()
                    return held
        time.sleep(0.01)
    raise AssertionError("no card was ever caught at work")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_500_lines_survive_an_interrupted_submit_and_a_killed_worker(
    settings: Settings, database: Database, two_cards: psutil.Process, manifest: Path
) -> None:
    first = _submit(manifest, settings)
    until(lambda: len(_jobs(database, State.COMPLETED)) > 20, 60)
    first.send_signal(signal.SIGINT)
    _, words = first.communicate(timeout=60)
    assert first.returncode == 130
    assert b"same command" in words

    in_flight = _kill_a_card_at_work(two_cards, database)

    second = _submit(manifest, settings)
    answer, words = second.communicate(timeout=300)
    assert second.returncode == 0, words.decode()
    json.loads(answer)

    jobs = _jobs(database)
    assert Counter(job.state for job in jobs) == {State.COMPLETED: LINES}
    assert len({job.custom_id for job in jobs}) == LINES
    again = sum(job.attempt - 1 for job in jobs)
    told("executions after the kill", {"in flight": in_flight, "repeated": again})
    assert again <= in_flight
    with database.read() as connection:
        for job in jobs:
            outcomes = Counter(attempt.outcome for attempt in attempts_of(connection, job.id))
            assert outcomes["completed"] == 1
    _check_words(settings, database, jobs)

    third = _submit(manifest, settings)
    third.communicate(timeout=60)
    assert third.returncode == 0
    assert len(_jobs(database)) == LINES


def _check_words(settings: Settings, database: Database, jobs: list[JobView]) -> None:
    """Word times never go back, stay inside the audio, and leave no word of the text out."""
    blobs = open_blobs(settings)
    for job in jobs:
        with database.read() as connection:
            files = {artifact.name: artifact.sha256 for artifact in artifacts_of(connection, job.id)}
        with blobs.open(files["words.json"]) as file:
            timing: dict[str, Any] = json.load(file)
        words, duration = timing["words"], timing["duration_s"]
        moments = [moment for word in words for moment in (word["start_s"], word["end_s"])]
        assert moments == sorted(moments)
        assert moments[0] >= 0
        assert moments[-1] <= duration
        covered = {(word["char_start"], word["char_end"]) for word in words}
        assert all(any(a < end and start < b for a, b in covered) for start, end in _tokens(job.args["text"]))


def _tokens(text: str) -> list[tuple[int, int]]:
    places, at = [], 0
    for token in text.split():
        at = text.index(token, at)
        places.append((at, at + len(token)))
        at += len(token)
    return places
