"""Looks at what a run left behind, from outside: the tables, the bytes, and what every process wrote down."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import plan
from event_log import events
from evidence import Evidence, Rows
from sqlalchemy import select
from stage import Stage

from soundmill.storage.blobs import LocalBlobStore
from soundmill.storage.collector import Collected, Collector
from soundmill.storage.rows import Artifact, Attempt, Batch, Blob, Job, JobParent

_JOB = (
    Job.id, Job.seq, Job.model, Job.args, Job.state, Job.priority, Job.attempt, Job.failures, Job.crashes,
    Job.pending_parents, Job.submitted_at, Job.finished_at, Job.lease_until, Job.batch_id, Job.error_code,
    Job.idempotency_key,
)  # fmt: skip


def gather(stage: Stage, faults: Rows, run: dict[str, Any]) -> Evidence:
    """Collect blobs that nobody refers to, then look at everything."""
    collected = collect(stage)
    cast = stage.cast
    with stage.database.read() as connection:
        rows = {
            "jobs": _plain(connection.execute(select(*_JOB).order_by(Job.seq))),
            "attempts": _plain(connection.execute(select(Attempt.__table__))),
            "artifacts": _plain(connection.execute(select(Artifact.__table__))),
            "parents": _plain(connection.execute(select(JobParent.__table__))),
            "batches": _plain(connection.execute(select(Batch.__table__))),
        }
        blobs = list(connection.execute(select(Blob.sha256)).scalars())
    return Evidence(
        run=run | {"collected": asdict(collected)},
        keys=[request.idempotency_key or "" for request in planned(cast.seed, cast.producers, cast.jobs)],
        blobs=blobs,
        files=_files(LocalBlobStore(stage.disk.folder)),
        executions=list(events(stage.log)),
        answers=[event for number in range(cast.producers) for event in events(stage.producer_log(number))],
        faults=faults,
        **rows,
    )


def collect(stage: Stage) -> Collected:
    """One whole pass of the collector, as if its grace were over."""
    with stage.database.read() as connection:
        now = stage.database.time(connection)
    grace_s = stage.settings.artifact_grace_s
    collector = Collector(stage.database, LocalBlobStore(stage.disk.folder), grace_s)
    # A second beyond the grace: what was put a moment ago is old for it.
    return collector.collect(now=now + grace_s + 1.0, limit=1_000_000)


def planned(seed: int, producers: int, jobs: int) -> list[Any]:
    """Every request of every producer."""
    return [
        request
        for number in range(producers)
        for chunk in plan.chunks(seed, number, jobs // producers)
        for request in chunk.requests
    ]


def _plain(rows: Any) -> Rows:
    return [dict(row._mapping) for row in rows]


def _files(store: LocalBlobStore) -> dict[str, dict[str, Any]]:
    found = {}
    for blob in store.list():
        with store.open(blob.sha256) as file:
            head = file.readline(500).decode(errors="replace")
        found[blob.sha256] = {"sound": store.verify(blob.sha256), "size": blob.size, "head": _json(head)}
    return found


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
