"""Judges what a run left behind. Pure: evidence in, broken promises and figures out.

A broken promise is a sentence with the job it is about. None of them is excused by the faults, but for the
wait behind jobs of a lower step: whose wake-up a fault may have taken waits for the reaper first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from evidence import Evidence, by
from measures import extra_executions, figures, in_flight, overtaken, percentile, recoveries

FINAL = frozenset({"completed", "cancelled", "discarded"})
CLOCK_S = 0.005
"""Rows are stamped by one clock, read at slightly different moments of a transaction."""


def judge(evidence: Evidence) -> tuple[list[str], dict[str, Any]]:
    """Every broken promise, and the figures."""
    broken = [sentence for check in CHECKS for sentence in check(evidence)]
    return broken, figures(evidence)


# -- promises ----------------------------------------------------------------------------------------


def came_to_an_end(evidence: Evidence) -> Iterator[str]:
    """Nothing had to be given up waiting for."""
    if evidence.run["stuck"]:
        yield f"stuck: {evidence.run['stuck']}"


def nothing_lost(evidence: Evidence) -> Iterator[str]:
    """Every job that was to be submitted has one row, and every row is final."""
    rows = Counter(job["idempotency_key"] for job in evidence.jobs)
    for key in evidence.keys:
        if rows[key] != 1:
            yield f"lost: key {key} has {rows[key]} rows"
    for key in rows.keys() - set(evidence.keys):
        yield f"doubled: nobody submitted {key}"
    for job in evidence.jobs:
        if job["state"] not in FINAL:
            yield f"lost: job {job['id']} is {job['state']} at the end"
        if job["lease_until"] is not None:
            yield f"job {job['id']} is {job['state']} and has a lease"


def accepted_once(evidence: Evidence) -> Iterator[str]:
    """What a producer was answered is there; and of no transaction there was ever a part."""
    ids = {job["id"] for job in evidence.jobs}
    for answer in evidence.answers:
        if answer["what"] == "accepted":
            for id_ in set(answer["ids"]) - ids:
                yield f"lost: job {id_} was accepted and has no row"
    for fault in evidence.faults:
        for half in fault["facts"].get("half_written", ()):
            yield f"half a transaction: {half}"


def one_completion_each(evidence: Evidence) -> Iterator[str]:
    """A completed job has one completed attempt, its last; any other has none."""
    attempts = by(evidence.attempts, "job_id")
    for job in evidence.jobs:
        own = sorted(attempts.get(job["id"], ()), key=lambda attempt: int(attempt["attempt"]))
        completed = [attempt["attempt"] for attempt in own if attempt["outcome"] == "completed"]
        wanted = [job["attempt"]] if job["state"] == "completed" else []
        if completed != wanted:
            yield f"doubled: job {job['id']} is {job['state']} at attempt {job['attempt']}, completed at {completed}"
        numbers = [attempt["attempt"] for attempt in own]
        if numbers != list(range(1, job["attempt"] + 1)):
            yield f"job {job['id']} had {job['attempt']} attempts, written down are {numbers}"
        for one, following in pairwise(own):
            if following["started_at"] < one["finished_at"] - CLOCK_S:
                yield f"stale: job {job['id']} began attempt {following['attempt']} before the one before ended"


def one_execution_for_each_attempt(evidence: Evidence) -> Iterator[str]:
    """No two executions under one number, and none without a claim."""
    last = {job["id"]: job["attempt"] for job in evidence.jobs}
    begun = Counter((e["job"], e["attempt"]) for e in evidence.executions if e["what"] == "begin")
    for (job, attempt), count in begun.items():
        if count > 1:
            yield f"doubled: attempt {attempt} at job {job} was executed {count} times"
        if attempt > last.get(job, 0):
            yield f"attempt {attempt} at job {job} was executed and never claimed"


def artifacts_of_the_winner(evidence: Evidence) -> Iterator[str]:
    """What is referred to exists, is sound, and is what the completed attempt made from the right input."""
    made = {(e["job"], e["attempt"]): e["sha256"] for e in evidence.executions if e["what"] == "end"}
    own = by([artifact for artifact in evidence.artifacts if artifact["role"] != "input"], "job_id")
    for job in evidence.jobs:
        files = own.get(job["id"], [])
        if job["state"] != "completed":
            if files:
                yield f"stale: job {job['id']} is {job['state']} and has {len(files)} artifacts"
            continue
        audio = [file for file in files if file["role"] == "audio"]
        if len(audio) != 1:
            yield f"job {job['id']} is completed and has {len(audio)} files of audio"
        elif audio[0]["sha256"] != made.get((job["id"], job["attempt"])):
            yield f"stale: job {job['id']} has a file that attempt {job['attempt']} did not make"
        for file in files:
            if file["attempt"] != job["attempt"]:
                yield f"stale: job {job['id']} has {file['name']} of attempt {file['attempt']}"
    for artifact in evidence.artifacts:
        stored = evidence.files.get(artifact["sha256"])
        if stored is None:
            yield f"lost: {artifact['name']} of job {artifact['job_id']} is not stored"
        elif not stored["sound"] or stored["size"] != artifact["size"]:
            yield f"damaged: {artifact['name']} of job {artifact['job_id']} does not match its hash"


def files_say_what_they_read(evidence: Evidence) -> Iterator[str]:
    """The bytes of a job name its own text, and the hash of what its parent made."""
    audio = {a["job_id"]: a["sha256"] for a in evidence.artifacts if a["role"] == "audio"}
    parent = {row["child"]: row["parent"] for row in evidence.parents}
    for job in evidence.jobs:
        stored = evidence.files.get(audio.get(job["id"], ""))
        if job["state"] != "completed" or stored is None:
            continue
        head = stored["head"] or {}
        read = audio.get(parent[job["id"]]) if job["id"] in parent else None
        if (head.get("text"), head.get("read")) != (job["args"]["text"], read):
            yield f"job {job['id']} has a file made of something else"


def no_orphans(evidence: Evidence) -> Iterator[str]:
    """After the collector nothing is stored that nobody refers to."""
    referred = {artifact["sha256"] for artifact in evidence.artifacts}
    for sha256 in evidence.files.keys() - referred:
        yield f"orphaned: {sha256} is stored and nothing refers to it"
    for sha256 in set(evidence.blobs) - referred:
        yield f"orphaned: {sha256} has a row and nothing refers to it"


def cancelled_means_cancelled(evidence: Evidence) -> Iterator[str]:
    """A job is not completed after its cancel was acknowledged, unless it was retried since."""
    asked: dict[str, float] = {}
    for answer in sorted(evidence.answers, key=lambda answer: float(answer["t"])):
        if answer["what"] == "cancelled":
            asked |= dict.fromkeys(answer["ids"], answer["t"])
        elif answer["what"] == "retrying":
            asked.pop(answer["id"], None)
    for job in evidence.jobs:
        acknowledged = asked.get(job["id"])
        if acknowledged is not None and job["state"] == "completed":
            late = job["finished_at"] - acknowledged
            if late > CLOCK_S:
                yield f"job {job['id']} was completed {late:.2f} s after its cancel was acknowledged"


def children_after_parents(evidence: Evidence) -> Iterator[str]:
    """What ran had all its parents completed before."""
    jobs = {job["id"]: job for job in evidence.jobs}
    began = {a["job_id"]: a["started_at"] for a in evidence.attempts if a["outcome"] == "completed"}
    for row in evidence.parents:
        child, parent = jobs.get(row["child"]), jobs.get(row["parent"])
        if child is None or parent is None or child["state"] != "completed":
            continue
        if parent["state"] != "completed" or parent["finished_at"] > began.get(child["id"], 0.0) + CLOCK_S:
            yield f"job {child['id']} ran before its parent {parent['id']} was completed"


def counters_are_true(evidence: Evidence) -> Iterator[str]:
    """The batches count what the rows say."""
    counted = Counter(
        {
            (batch["id"], state): batch[state]
            for batch in evidence.batches
            for state in ("scheduled", "available", "executing", "retryable", *FINAL)
            if batch[state]
        }
    )
    rows = Counter((job["batch_id"], job["state"]) for job in evidence.jobs)
    for key in counted.keys() | rows.keys():
        if counted[key] != rows[key]:
            yield f"batch {key[0]} counts {counted[key]} jobs that are {key[1]}; there are {rows[key]}"


def higher_steps_first(evidence: Evidence) -> Iterator[str]:
    """No job started while one of a higher step of its queue had waited more than five seconds."""
    others: dict[str, list[float]] = {}
    for late_s, _, other in overtaken(evidence, excused=True):
        others.setdefault(other, []).append(late_s)
    for other, waits in others.items():
        yield f"job {other} started although {len(waits)} of a higher step had waited, one {max(waits):.1f} s"


def extra_work_is_bounded(evidence: Evidence) -> Iterator[str]:
    """Executions beyond what jobs asked for are at most what was in flight at the faults."""
    extra, bound = extra_executions(evidence), in_flight(evidence)
    if extra > bound:
        yield f"{extra} executions were for nothing, and {bound} jobs were in flight at the faults"


def recovered_in_time(evidence: Evidence) -> Iterator[str]:
    """Of the jobs that a fault took from their workers, 99 of 100 are back within the bound."""
    taken = [seconds for seconds, _ in recoveries(evidence)]
    bound = evidence.run["bound_s"] * evidence.run["patience"]
    if taken and percentile(taken, 99) > bound:
        yield f"recovery took {percentile(taken, 99):.1f} s at the 99th percentile, more than {bound:g} s"


def stops_in_time(evidence: Evidence) -> Iterator[str]:
    """Who was asked to stop is gone three seconds after its grace."""
    limit = (evidence.run["settings"]["shutdown_grace_s"] + 3.0) * evidence.run["patience"]
    for fault in evidence.faults:
        took = fault["facts"].get("exit_s", 0.0)
        if took > limit:
            yield f"{fault['kind']}: it was gone after {took:.1f} s, not {limit:g} s"


def everybody_works_at_the_end(evidence: Evidence) -> Iterator[str]:
    """After the last fault every worker took part in a last load, and all stopped when asked."""
    probe = evidence.run["probe"]
    if len(probe["cards"]) < evidence.run["workers"]:
        yield f"after the last fault only {', '.join(probe['cards']) or 'nobody'} did anything"
    for status in evidence.run["stopped"]:
        if status:
            yield f"a supervisor ended with {status}"


CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    came_to_an_end,
    nothing_lost,
    accepted_once,
    one_completion_each,
    one_execution_for_each_attempt,
    artifacts_of_the_winner,
    files_say_what_they_read,
    no_orphans,
    cancelled_means_cancelled,
    children_after_parents,
    counters_are_true,
    higher_steps_first,
    extra_work_is_bounded,
    recovered_in_time,
    stops_in_time,
    everybody_works_at_the_end,
)
