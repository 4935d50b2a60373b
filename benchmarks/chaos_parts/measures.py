"""What a run comes to in numbers; promises and figures are both made of these. Pure."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from evidence import Evidence, Rows, by

OWN_ENDS = frozenset({"completed", "failed", "discarded", "cancelled"})
"""Outcomes of attempts that came to an end of their own."""
TAKEN = frozenset({"lost", "crashed"})
"""Outcomes of attempts that somebody else had to end."""

HIGHER_WAIT_S = 5.0
LOST_AFTER_S = 5.0
"""How long a message may be out before the reaper counts it as lost."""
TOGETHER_S = 0.5
"""Messages are taken in order and claimed by many threads at once: claims this close together have none."""


def step_of(priority: int) -> int:
    """The broker's step of a priority, written down here a second time on purpose; 0 goes first."""
    return (9, 9, 6, 6, 6, 3, 3, 3, 0, 0)[priority]


def overtaken(evidence: Evidence, *, excused: bool) -> list[tuple[float, str, str]]:
    """(how long it had waited, the job that waited, the first one of a lower step that started meanwhile).

    Args:
        evidence: Of the run.
        excused: Whether a wait counts only from when a message lost in a fault has to be repeated.
    """
    found = []
    ended = {job["id"]: job["finished_at"] or 0.0 for job in evidence.jobs}
    freed: dict[str, float] = {}
    for row in evidence.parents:
        freed[row["child"]] = max(freed.get(row["child"], 0.0), ended.get(row["parent"], 0.0))
    begun = [event for event in evidence.executions if event["what"] == "begin"]
    for events in by(begun, "model").values():
        starts = {
            step: sorted((e["started_at"], e["job"]) for e in events if step_of(e["priority"]) > step)
            for step in (0, 3, 6)
        }
        for event in events:
            lower = starts.get(step_of(event["priority"]))
            if not lower:
                continue
            since = max(event["available_at"], freed.get(event["job"], 0.0))
            if excused:
                since = max(since, _repeated_by(evidence, since, event["started_at"]))
            place = bisect_left(lower, (since + HIGHER_WAIT_S * evidence.run["patience"], ""))
            if place < len(lower) and lower[place][0] < event["started_at"] - TOGETHER_S:
                found.append((lower[place][0] - since, event["job"], lower[place][1]))
    return found


def _repeated_by(evidence: Evidence, since: float, started: float) -> float:
    """When a message that a fault took between two moments has been sent again."""
    pause = LOST_AFTER_S + evidence.run["settings"]["reaper_s"] + 1.0
    lost = [
        fault["until"] + pause
        for fault in evidence.faults
        if fault["loses_messages"] and fault["at"] <= started and fault["until"] + pause >= since
    ]
    return max(lost, default=0.0)


def without_excuse(evidence: Evidence) -> int:
    """The jobs of a higher step whose wait no fault excuses: those that the five seconds are held against."""
    return sum(
        step_of(event["priority"]) < step_of(0)
        and _repeated_by(evidence, event["available_at"], event["started_at"]) <= event["available_at"]
        for event in evidence.executions
        if event["what"] == "begin"
    )


def extra_executions(evidence: Evidence) -> int:
    """Executions that began and came to nothing of their own: taken by a fault, or made and not to be kept."""
    ends = {
        (a["job_id"], a["attempt"]): a["outcome"]
        for a in evidence.attempts
        if a["error_code"] != "storage_unavailable"
    }
    begun = {(e["job"], e["attempt"]) for e in evidence.executions if e["what"] == "begin"}
    return sum(ends.get(key) not in OWN_ENDS for key in begun)


def in_flight(evidence: Evidence) -> int:
    """The jobs that ran where faults struck, at the moment they did."""
    return sum(fault["in_flight"] for fault in evidence.faults)


def fenced(evidence: Evidence) -> int:
    """Executions that reached their end and were refused: somebody else held the job by then."""
    ends = {(a["job_id"], a["attempt"]): a["outcome"] for a in evidence.attempts}
    return sum(ends.get((e["job"], e["attempt"])) in TAKEN for e in evidence.executions if e["what"] == "end")


def recoveries(evidence: Evidence) -> list[tuple[float, str]]:
    """For each attempt that a fault took: how long its job took to be back, and the kind of fault."""
    found = []
    for attempt in evidence.attempts:
        if attempt["outcome"] not in TAKEN:
            continue
        back = attempt["finished_at"]
        fault = _cause(evidence.faults, attempt["worker"], attempt["started_at"], back)
        if fault is not None:
            seconds = back - _recovery_could_begin(evidence.faults, fault, back) - fault["late_s"]
            found.append((max(seconds, 0.0), fault["kind"]))
    return found


def _cause(faults: Rows, worker: str, started: float, back: float) -> dict[str, Any] | None:
    """The fault that took an attempt: one that struck its worker, else the last one before."""
    before = [fault for fault in faults if fault["delivered"] and fault["at"] <= back]
    own = [fault for fault in before if worker in fault["victims"] and fault["until"] >= started]
    return (own or before or [None])[-1]


def _recovery_could_begin(faults: Rows, fault: dict[str, Any], back: float) -> float:
    """Not before the job table is reachable again."""
    outages = [
        f["until"] for f in faults if f["storage"] and f["until"] >= fault["clock"] and f["until"] <= back
    ]
    return max([fault["clock"], *outages])


def resumptions(evidence: Evidence) -> dict[str, list[float]]:
    """By kind: from the end of a fault to the next claim of a job, anywhere; jobs wait at all times."""
    starts = sorted(a["started_at"] for a in evidence.attempts)
    found: dict[str, list[float]] = {}
    for fault in evidence.faults:
        place = bisect_left(starts, fault["until"])
        if fault["delivered"] and place < len(starts):
            found.setdefault(fault["kind"], []).append(starts[place] - fault["until"])
    return found


def cancellations(evidence: Evidence) -> list[float]:
    """From the answer to a cancel to the end of the attempt that it stopped."""
    ends = {a["job_id"]: a["finished_at"] for a in evidence.attempts if a["outcome"] == "cancelled"}
    asked: dict[str, float] = {}
    for answer in evidence.answers:
        if answer["what"] == "cancelled":
            for id_ in answer["ids"]:
                asked.setdefault(id_, answer["t"])
    return [ends[id_] - at for id_, at in asked.items() if id_ in ends and ends[id_] > at]


def percentile(values: Sequence[float], of: int) -> float:
    """The nearest rank."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, (len(ranked) * of + 99) // 100 - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """What a list of seconds comes to."""
    if not values:
        return {}
    return {
        "count": len(values),
        "p50_s": round(statistics.median(values), 2),
        "p99_s": round(percentile(values, 99), 2),
        "most_s": round(max(values), 2),
    }


def figures(evidence: Evidence) -> dict[str, Any]:
    """What a run came to, in numbers."""
    states = Counter(job["state"] for job in evidence.jobs)
    begun = [event for event in evidence.executions if event["what"] == "begin"]
    delivered = [fault for fault in evidence.faults if fault["delivered"]]
    codes = Counter(job["error_code"] for job in evidence.jobs if job["state"] == "discarded")
    answers = [a["seconds"] for a in evidence.answers if a["what"] == "accepted"]
    recovered = recoveries(evidence)
    return {
        "jobs": len(evidence.jobs),
        "faults": len(delivered),
        "faults_by_kind": dict(sorted(Counter(fault["kind"] for fault in delivered).items())),
        "states": dict(sorted(states.items())),
        "discarded_by_code": dict(sorted(codes.items())),
        "executions": len(begun),
        "extra_executions": extra_executions(evidence),
        "in_flight_at_faults": in_flight(evidence),
        "late_settles_fenced": fenced(evidence),
        "recovery": spread([seconds for seconds, _ in recovered]),
        "recovery_by_kind": {
            kind: spread([seconds for seconds, of in recovered if of == kind])
            for kind in sorted({kind for _, kind in recovered})
        },
        "resumed": {kind: spread(values) for kind, values in sorted(resumptions(evidence).items())},
        "higher_step_waited": {
            "beside_any_fault": len(overtaken(evidence, excused=False)),
            "unexcused": len(overtaken(evidence, excused=True)),
            "by_jobs": len({other for _, _, other in overtaken(evidence, excused=True)}),
            "jobs_without_excuse": without_excuse(evidence),
        },
        "submit": spread(answers),
        "running_until_cancelled": spread(cancellations(evidence)),
        "until_gone_when_asked": spread(
            [fault["facts"]["exit_s"] for fault in delivered if "exit_s" in fault["facts"]]
        ),
        "collected_blobs": evidence.run["collected"]["deleted"],
        "supervisors_restarted": evidence.run["supervisors_restarted"],
        "probe_s": evidence.run["probe"]["seconds"],
        "wall_s": evidence.run["wall_s"],
    }
