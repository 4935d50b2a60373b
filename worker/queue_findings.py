"""What `soundmill doctor` says of the jobs: whether somebody does them, and whether anything stands still."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, select

from soundmill.storage import backlog
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import FINAL, State
from soundmill.storage.listing import WorkerView, paused_models, workers
from soundmill.storage.rows import Job
from soundmill.storage.settings import Settings

from .finding import Finding

LONG_WAIT_S = 3600.0
NO_LEADER_S = 5.0
SILENT_FOR_S = 86_400.0
AHEAD_S = 60.0
NEWEST = 1_000
DISCARDED_SHARE, DISCARDED_LEAST = 0.1, 10


def queue_findings(database: Database, settings: Settings) -> Iterator[Finding]:
    """Look at a job table that answers.

    Raises:
        StorageUnavailable: It answers no more.
    """
    with database.read() as connection:
        now = database.time(connection)
        known = workers(connection, database)
        waiting = backlog.waiting(connection)
        troubles = [
            *_queues(waiting, known, paused_models(connection), now),
            *_silent(known, now),
            *_leader(connection, database, known),
            *_leases(connection, database, settings),
            *_discarded(connection),
            *_clock(known, now),
        ]
    jobs = sum(one.jobs for one in waiting.values())
    live = sum(worker.live for worker in known)
    yield Finding(what="queue", verdict="ok", detail=f"{jobs} job(s) wait, {live} card(s) work")
    yield from troubles


def _queues(
    waiting: Mapping[str, backlog.Waiting], known: list[WorkerView], paused: set[str], now: float
) -> Iterator[Finding]:
    serving = {model for worker in known if worker.live and not worker.draining for model in worker.models}
    draining = {model for worker in known if worker.live and worker.draining for model in worker.models}
    for model, one in waiting.items():
        age_s = 0.0 if one.since is None else now - one.since
        what, wait = f"queue {model}", f"{one.jobs} job(s) wait, one for {_long(age_s)}"
        if model in paused:
            detail = f"{wait}, and the queue is paused; soundmill queue resume {model}"
            yield Finding(what=what, verdict="warning", detail=detail)
        elif model not in serving and model in draining:
            detail = f"{wait}, and its workers take nothing new; soundmill worker drain --undo CARD"
            yield Finding(what=what, verdict="broken", detail=detail)
        elif model not in serving:
            detail = f"{wait}, and no live worker serves it; soundmill worker --model {model}"
            yield Finding(what=what, verdict="broken", detail=detail)
        elif age_s > LONG_WAIT_S:
            detail = f"{wait}; add cards, or see with soundmill jobs list what takes so long"
            yield Finding(what=what, verdict="warning", detail=detail)


def _silent(known: list[WorkerView], now: float) -> Iterator[Finding]:
    for worker in known:
        # One that left by itself said so: its heartbeat is 0.
        if not worker.live and worker.heartbeat_at > now - SILENT_FOR_S:
            ago = _long(now - worker.heartbeat_at)
            yield Finding(
                what=f"worker {worker.name}",
                verdict="warning",
                detail=f"fell silent {ago} ago without a word: see whether its host runs and reaches the job table, "
                "and start it again",
            )


def _leader(connection: Connection, database: Database, known: list[WorkerView]) -> Iterator[Finding]:
    if not any(worker.live for worker in known):
        return
    left_s = backlog.leadership_left_s(connection, database)
    if left_s is None or left_s < -NO_LEADER_S:
        since = "and never did" if left_s is None or -left_s > SILENT_FOR_S else f"for {_long(-left_s)}"
        yield Finding(
            what="dispatcher",
            verdict="broken",
            detail=f"workers live, but no supervisor leads, {since}: no messages go out and no lost job is returned; "
            "see the supervisors' logs, and restart one: soundmill worker",
        )


def _leases(connection: Connection, database: Database, settings: Settings) -> Iterator[Finding]:
    held = backlog.leases(connection, database)
    # After a gap of its own the reaper waits for a whole lease.
    if held.expired and held.oldest_s > settings.lease_s + 2 * settings.reaper_s:
        yield Finding(
            what="leases",
            verdict="broken",
            detail=f"{held.expired} job(s) belong to workers that are gone, one for {_long(held.oldest_s)}, and nobody "
            "returns them; a supervisor has to run somewhere: soundmill worker",
        )


def _discarded(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(select(Job.state, Job.error_code).order_by(Job.seq.desc()).limit(NEWEST)).all()
    final = [row for row in rows if row.state in FINAL]
    discarded = [row.error_code or "none" for row in final if row.state == State.DISCARDED]
    if len(discarded) >= DISCARDED_LEAST and len(discarded) > DISCARDED_SHARE * len(final):
        reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(discarded).most_common(3))
        yield Finding(
            what="discarded jobs",
            verdict="warning",
            detail=f"{len(discarded)} of the newest {len(final)} jobs that ended failed ({reasons}); "
            "soundmill jobs list --state discarded, and jobs retry when the cause is mended",
        )


def _clock(known: list[WorkerView], now: float) -> Iterator[Finding]:
    ahead_s = max((worker.heartbeat_at - now for worker in known), default=0.0)
    if ahead_s > AHEAD_S:
        yield Finding(
            what="clock",
            verdict="warning",
            detail=f"the clock of the job table was set back by {_long(ahead_s)} or more: leases and waits last so "
            "much longer; run a time service, and restart the workers",
        )


def _long(seconds: float) -> str:
    for unit, of in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * of:
            return f"{seconds / of:.0f} {unit}"
    return f"{seconds:.0f} s"
