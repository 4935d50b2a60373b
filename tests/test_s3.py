"""The way of a job with its bytes in a bucket: submitted, performed, read, and at last collected."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from soundmill.models.acoustic import Acoustic
from soundmill.producer import Producer
from soundmill.storage.bucket import Bucket
from soundmill.storage.collector import Collector
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.rows import Artifact, Blob
from soundmill.storage.settings import Settings
from soundmill.worker.attempt import Attempts
from soundmill.worker.executor import Ending, Executor, Limits
from soundmill.worker.ledger import Ledger
from soundmill.worker.pulse import Pulse
from soundmill.worker.storage_findings import storage_findings

from .producer.playing import write_tone
from .s3 import S3Bucket, Way
from .worker.bench import Mailbox


@pytest.fixture
def settings(s3: S3Bucket, database_url: str, tmp_path: Path) -> Settings:
    return Settings(storage_url=s3.url, state_dir=tmp_path / "state", database_url=database_url)


@contextmanager
def executor_of(producer: Producer) -> Iterator[Executor]:
    """A card's process, without the process."""
    attempts = Attempts()
    ledger = Ledger(
        producer.database,
        worker="cpu-0@here#1",
        card="cpu:0",
        lease_s=30,
        linger_s=0,
        in_flight=attempts.__len__,
    )
    try:
        yield Executor(
            database=producer.database, blobs=producer.blobs, catalog=producer.catalog,
            handlers={"acoustic": Acoustic()}, slots={"acoustic": 1}, ledger=ledger, attempts=attempts,
            pulse=Pulse(None), publisher=Mailbox(),  # type: ignore[arg-type]
            limits=Limits(step_s=60, load_s=600, metrics_file=True),
        )  # fmt: skip
    finally:
        ledger.close()


def forget(database: Database) -> None:
    """Let days pass for a job table whose jobs are gone."""
    with database.write() as connection:
        connection.execute(delete(Artifact))
        connection.execute(update(Blob).values(touched_at=1.0))


def test_a_job_goes_its_way_with_its_bytes_in_a_bucket(
    settings: Settings, s3: S3Bucket, tmp_path: Path
) -> None:
    write_tone(tmp_path / "tone.wav")
    with Producer(settings) as producer:
        job = producer.submit(model="acoustic", args={"audio": (tmp_path / "tone.wav").read_bytes()})
        with executor_of(producer) as executor:
            assert executor.execute(job.id).ending == Ending.COMPLETED
        done = producer.wait(job.id, timeout_s=10)
        assert done.state == State.COMPLETED
        with producer.open_artifact(job.id, "caption.json") as stream:
            assert json.load(stream)["duration_s"] == pytest.approx(1.0)
        with producer.open_artifact(job.id, "caption.txt") as stream:
            assert stream.read()
        assert list((settings.state_dir / "scratch").iterdir()) == []

        collector = Collector(producer.database, producer.blobs, settings.artifact_grace_s)
        tomorrow = time.time() + settings.artifact_grace_s + 60
        assert collector.collect(now=tomorrow).deleted == 0
        forget(producer.database)
        assert collector.collect().spared == 4  # the bytes are young, whatever the table says
        assert collector.collect(now=tomorrow).deleted == 4
    assert list(Bucket(s3.name, "").objects()) == []


def test_a_job_whose_bucket_fails_is_not_charged_and_runs_again(
    s3: S3Bucket, s3_way: Way, tmp_path: Path
) -> None:
    settings = Settings(storage_url=s3.url, state_dir=tmp_path / "state")
    write_tone(tmp_path / "tone.wav")
    with Producer(settings) as producer:
        job = producer.submit(model="acoustic", args={"audio": (tmp_path / "tone.wav").read_bytes()})
        s3_way.refuse("403 Forbidden", "QuotaExceeded")
        with executor_of(producer) as executor:
            report = executor.execute(job.id)
        assert (report.ending, report.code) == (Ending.RETRYABLE, "storage_unavailable")
        assert producer.get(job.id).failures == 0


def test_the_doctor_tries_the_bucket_and_leaves_nothing(settings: Settings, s3: S3Bucket) -> None:
    (finding,) = storage_findings(settings)
    assert finding.verdict == "ok", finding
    assert s3.url in finding.detail
    assert list(Bucket(s3.name, "").objects()) == []


def test_the_doctor_says_what_is_wrong_with_a_bucket(settings: Settings, s3_way: Way) -> None:
    s3_way.refuse("403 Forbidden", "InvalidAccessKeyId")
    (finding,) = storage_findings(settings)
    assert finding.verdict == "broken"
    assert "InvalidAccessKeyId" in finding.detail
    assert "set AWS_ACCESS_KEY_ID" in finding.detail
