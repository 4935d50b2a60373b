"""`soundmill jobs prune`, and what submitters and exports see of jobs that were pruned."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner, Result

from soundmill.producer import Producer, Request
from soundmill.producer.cli import build_app
from soundmill.producer.export.exporter import Exporter
from soundmill.storage.errors import NotFound, SubmitRefused
from soundmill.storage.lifecycle import State
from soundmill.storage.retention import DAY_S, Policy, walk
from soundmill.storage.rows import Batch, Blob, Job

from .playing import finish, finish_with_file

LONG_AGO = 40 * DAY_S
MONTH = Policy(kept_s={"completed": 30 * DAY_S, "discarded": 30 * DAY_S})


@pytest.fixture
def producer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    """A producer on the same state as the commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(tmp_path / "state"))
    with Producer() as opened:
        yield opened


def age(producer: Producer, *ids: str) -> None:
    then = time.time() - LONG_AGO
    with producer.database.write() as connection:
        connection.execute(update(Job).where(Job.id.in_(ids)).values(submitted_at=then, finished_at=then))


def old(producer: Producer, folder: Path, **fields: Any) -> str:
    """A job that made a file and ended long ago."""
    request = {"model": "espeak-ng", "args": {"text": "Good morning."}} | fields
    job_id = producer.submit(Request(**request)).id
    finish_with_file(producer, job_id, "speech.wav", job_id.encode(), folder)
    age(producer, job_id)
    return job_id


def prune(producer: Producer) -> int:
    return sum(page.jobs for page in walk(producer.database, MONTH))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["jobs", "prune", *arguments])


def answer(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_command_tells_first_and_then_prunes(producer: Producer, tmp_path: Path) -> None:
    job_id = old(producer, tmp_path)
    would = answer("--older-than", "30d", "--dry-run")

    assert would == {"jobs": 1, "files": 1, "bytes": 26, "spared": 0, "dry_run": True}
    assert producer.get(job_id).state == State.COMPLETED
    assert answer("--older-than", "8w")["jobs"] == 0
    assert answer("--older-than", "30d", "--state", "discarded,cancelled")["jobs"] == 0
    assert run("--older-than", "720h").stdout.startswith("1 jobs pruned, with 1 files of 26 bytes at most")
    with pytest.raises(NotFound):
        producer.get(job_id)


def test_the_command_follows_the_setting_and_wants_one(
    producer: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old(producer, tmp_path)
    assert run().exit_code == 2
    assert "--older-than" in run().stderr
    monkeypatch.setenv("SOUNDMILL_KEEP_DAYS", "discarded=1,completed=50")
    assert answer()["jobs"] == 0
    monkeypatch.setenv("SOUNDMILL_KEEP_DAYS", "completed=0.5")
    assert answer("--dry-run")["jobs"] == 1


@pytest.mark.parametrize(
    "arguments",
    [("--older-than", "30"), ("--older-than", "1d", "--state", "executing"), ("--dry-run", "--files")],
)
def test_what_cannot_be_meant_is_refused(producer: Producer, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_the_files_go_when_nothing_has_referred_to_them_for_the_grace(
    producer: Producer, tmp_path: Path
) -> None:
    job_id = old(producer, tmp_path)
    [file] = producer.artifacts(job_id)

    assert answer("--older-than", "30d", "--files")["deleted_files"] == 0
    with producer.blobs.open(file.sha256) as stored:
        assert stored.read() == job_id.encode()

    long_ago = time.time() - LONG_AGO
    with producer.database.write() as connection:
        connection.execute(update(Blob).values(touched_at=long_ago))
    with producer.blobs.fetch(file.sha256) as path:
        os.utime(path, (long_ago, long_ago))
    assert answer("--older-than", "30d", "--files")["deleted_files"] == 1
    with pytest.raises(NotFound):
        producer.blobs.open(file.sha256)


def test_the_same_submit_within_a_week_is_the_job_that_was_pruned(producer: Producer, tmp_path: Path) -> None:
    job_id = old(producer, tmp_path, idempotency_key="k")
    assert prune(producer) == 1

    again = producer.submit(model="espeak-ng", args={"text": "Good morning."}, idempotency_key="k")

    assert (again.id, again.fresh, again.state) == (job_id, False, State.COMPLETED)
    assert producer.wait(job_id, timeout_s=10).pruned_at is not None
    assert producer.artifacts(job_id) == []
    shown = CliRunner().invoke(build_app(), ["jobs", "show", job_id])
    assert "pruned" in shown.stdout


def test_a_new_job_cannot_read_from_one_that_was_pruned(producer: Producer, tmp_path: Path) -> None:
    speech = Request(alias="s", model="espeak-ng", args={"text": "Good morning."}, idempotency_key="k")
    job_id = producer.submit_graph([speech])[0].id
    finish_with_file(producer, job_id, "speech.wav", b"sound", tmp_path)
    age(producer, job_id)
    assert prune(producer) == 1

    def alignment(of: str) -> Request:
        return Request(model="espeak-dtw", args={"text": "Good morning.", "audio": {"job": of}})

    with pytest.raises(SubmitRefused, match="pruned; give it another idempotency key"):
        producer.submit_graph([speech, alignment("@s")])
    with pytest.raises(SubmitRefused, match=f"there is no job {job_id}"):
        producer.submit(alignment(job_id))


def test_an_export_holds_its_batch_and_says_what_is_gone(producer: Producer, tmp_path: Path) -> None:
    old(producer, tmp_path, batch="b", custom_id="gone", idempotency_key="k")
    assert prune(producer) == 1
    kept = old(producer, tmp_path, batch="b", custom_id="kept")
    seen: list[int] = []

    def prune_meanwhile(_: int) -> None:
        seen.append(prune(producer))

    contents = Exporter(producer, "b", tmp_path / "out", seen=prune_meanwhile).run()

    assert seen == [0], "nothing of a batch goes while it is exported"
    assert (tmp_path / "out" / "0000" / "kept.wav").read_text() == kept
    [line] = [json.loads(text) for text in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert (line["id"], line["error_code"]) == ("gone", "artifact_gone")
    assert "pruned" in line["error"]
    assert contents.failed == 1
    with producer.database.write() as connection:
        assert (connection.execute(select(Batch.held_until)).scalar_one() or 0) > time.time()
        connection.execute(update(Batch).values(held_until=None))
    assert prune(producer) == 1


def test_a_discarded_job_that_was_pruned_is_not_retried(producer: Producer) -> None:
    job_id = producer.submit(model="espeak-ng", args={"text": "x"}, idempotency_key="k").id
    finish(producer, job_id, state=State.DISCARDED, error="no", error_code="x")
    age(producer, job_id)
    assert prune(producer) == 1
    result = CliRunner().invoke(build_app(), ["jobs", "retry", job_id])
    assert result.exit_code == 1
    assert "was pruned" in result.stderr
