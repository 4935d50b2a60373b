"""Nothing lost and nothing doubled while everything fails: faults by chance, and a judge who looks from outside.

    python benchmarks/chaos.py                                  # one seed on SQLite and on PostgreSQL, five minutes
    python benchmarks/chaos.py --seeds 10 --jobs 2000 --faults 25 --json benchmarks/results/chaos.json
    python benchmarks/chaos.py --database postgres --seed 7 --only 'worker SIGSTOP,redis cut'
    python benchmarks/chaos.py --check history/sqlite-3.json    # judge once more what a run left behind

Three workers, each under a supervisor of its own; two producers in processes of their own with dependencies,
priorities, batches, cancellations, retries and idempotency keys; a real Redis or Valkey server and a real job
table, each behind a TCP proxy; artifacts on a small disk. The model computes nothing, in the real engine, 50 to
150 ms a call. One fault after the other is dealt from a shuffled deck: kills, stops and pauses of every
process, a Redis that dies, freezes, forgets or is full, a job table that crashes, stalls or is locked, a full
disk, errors of an accelerator in its own words, and steps that hang.

A lease is 6 s here, a heartbeat 2 s and a reaper's round 1 s, so that much happens in little time: times of
recovery are to be read beside them. The faults are a seed's; when each process comes to what is not. Every
promise of `chaos_parts/checker.py` has to hold, or the script ends with 1 and keeps what the run left behind.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, where `queue.py` would pass for the standard library's `queue`

import argparse
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "chaos_parts"), str(HERE / "sides"), str(HERE.parent)]

from checker import judge
from event_log import events
from evidence import Evidence, Rows
from faults import KINDS, deck, strike
from figures import keep, machine
from gathering import gather
from stage import MODELS, Cast, Stage, Stuck

from soundmill.producer import Producer, Request

PAUSE_LEAST, PAUSE_MOST = 0.1, 0.7  # of a fault's share of the span
SETTINGS = ("lease_s", "heartbeat_s", "reaper_s", "shutdown_grace_s")
SETTLE_S = 240.0
PROBES = 96
PROBE_S = 60.0


def main() -> int:
    """Run what the options ask for; return 0 if every promise held."""
    options = _options()
    if options.check:
        return _show("kept", *judge(Evidence.load(options.check)))
    runs: list[dict[str, Any]] = []
    failed = 0
    for seed in range(options.seed, options.seed + options.seeds):
        for database in options.database.split(","):
            broken, figures = _run(options, database, seed)
            failed += bool(broken)
            runs.append({"database": database, "seed": seed, "broken": broken, **figures})
            if options.json:
                keep(options.json, {"machine": machine(), "options": _said(options), "total": _total(runs),
                                    "runs": runs})  # fmt: skip
    for database, total in _total(runs).items():
        print(f"\n{database}: " + ", ".join(f"{name} {value}" for name, value in total.items()))
    return min(failed, 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", default="sqlite,postgres", help="sqlite, postgres or both")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--jobs", type=int, default=2000, help="of a seed on a database")
    parser.add_argument("--faults", type=int, default=25, help="of a seed on a database")
    parser.add_argument(
        "--minutes", type=float, default=15.0, help="no more faults after so long, for a seed"
    )
    parser.add_argument(
        "--span", type=float, help="seconds over which jobs are submitted; 4.5 for each fault"
    )
    parser.add_argument("--patience", type=float, default=1.0, help="times every bound, for a busy machine")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument("--only", default="", help=f"these faults only: {', '.join(KINDS)}")
    parser.add_argument("--no-engine", action="store_true", help="let the model run without engine and torch")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--history", type=Path, help="a folder for what the runs left behind")
    parser.add_argument("--check", type=Path, help="judge what an earlier run left behind; run nothing")
    return parser.parse_args()


def _said(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if not isinstance(value, Path)}


def _run(options: argparse.Namespace, database: str, seed: int) -> tuple[list[str], dict[str, Any]]:
    cast = Cast(
        database=database,
        seed=seed,
        jobs=options.jobs,
        workers=options.workers,
        producers=options.producers,
        span_s=options.span or options.faults * 4.5,
        engine=not options.no_engine,
    )
    stage = Stage(cast)
    words = ""
    try:
        evidence = _perform(stage, options)
        words = stage.words()
    finally:
        stage.close()
    broken, figures = judge(evidence)
    if broken and options.history is None:
        options.history = Path.cwd() / "chaos-history"
    if options.history is not None:
        options.history.mkdir(parents=True, exist_ok=True)
        evidence.keep(options.history / f"{database}-{seed}.json")
        (options.history / f"{database}-{seed}.log").write_text(words)
    _show(f"{database}, seed {seed}", broken, figures)
    return broken, figures


def _perform(stage: Stage, options: argparse.Namespace) -> Evidence:
    begun = time.monotonic()
    faults: Rows = []
    stuck = ""
    probe: dict[str, Any] = {"seconds": None, "cards": []}
    try:
        for number in range(stage.cast.producers):
            stage.start_producer(number)
        stage.until(stage.executing, SETTLE_S, "nothing began")
        _strike(stage, options, faults)
        stage.until(stage.producers_done, SETTLE_S, "the producers did not come to an end")
        stage.until(stage.all_final, SETTLE_S, "not every job became final")
        stage.until(stage.all_serve, SETTLE_S, "not every worker came back")
        probe = _probe(stage)
    except Stuck as error:
        stuck = str(error)
    wall_s = round(time.monotonic() - begun, 1)
    stopped = stage.stop_workers()
    run = {
        "seed": stage.cast.seed, "database": stage.cast.database, "workers": stage.cast.workers,
        "settings": {name: getattr(stage.settings, name) for name in SETTINGS},
        "bound_s": stage.bound_s, "wall_s": wall_s, "probe": probe, "stopped": stopped,
        "stuck": stuck, "supervisors_restarted": stage.tended, "patience": options.patience,
    }  # fmt: skip
    evidence = gather(stage, faults, run)
    if probe["seconds"] is not None:
        evidence.keys.extend(f"probe-{number}" for number in range(PROBES))
    return evidence


def _strike(stage: Stage, options: argparse.Namespace, records: Rows) -> None:
    rng = random.Random(f"faults/{stage.cast.seed}/{stage.cast.database}")
    only = frozenset(name.strip() for name in options.only.split(",") if name.strip())
    if unknown := only - KINDS.keys():
        raise SystemExit(f"there is no fault {', '.join(unknown)}; there are {', '.join(KINDS)}")
    dealt = deck(rng, stage.cast.database, engine=stage.cast.engine, only=only)
    limit = time.monotonic() + options.minutes * 60
    share_s = stage.cast.span_s / max(options.faults, 1)
    tried = 0
    while sum(record["delivered"] for record in records) < options.faults and time.monotonic() < limit:
        time.sleep(share_s * rng.uniform(PAUSE_LEAST, PAUSE_MOST))
        stage.tend()
        records.append(strike(stage, next(dealt), rng))
        _tell(stage, records[-1])
        tried += 1
        if tried > 4 * options.faults:
            break


def _tell(stage: Stage, record: Mapping[str, Any]) -> None:
    what = record["kind"] if record["delivered"] else f"({record['kind']})"
    took = record["until"] - record["at"]
    print(
        f"  {what:32} {took:5.1f} s   {record['in_flight']:3} in flight   {dict(stage.states())}", flush=True
    )


def _probe(stage: Stage) -> dict[str, Any]:
    """A last load, past the faults: who takes part in it, and how long it takes."""
    since = time.time()
    requests = (
        Request(
            model=MODELS[number % len(MODELS)],
            args={"text": f"probe-{number}", "calls": 3},
            idempotency_key=f"probe-{number}",
        )
        for number in range(PROBES)
    )
    with Producer(stage.settings) as producer:
        for _ in producer.submit_many(requests):
            pass
        stage.until(stage.all_final, PROBE_S, "the last load was not done")
    seconds = round(time.time() - since, 2)
    workers = {
        event["pid"] for event in events(stage.log) if event["what"] == "begin" and event["t"] >= since
    }
    there = {worker.pid: seat.card for seat in stage.seats if (worker := seat.worker()) is not None}
    return {"seconds": seconds, "cards": sorted(there[pid] for pid in workers & there.keys())}


def _total(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the runs on a database come to together."""
    totals: dict[str, dict[str, Any]] = {}
    for database in dict.fromkeys(run["database"] for run in runs):
        of = [run for run in runs if run["database"] == database]
        words = Counter(sentence.split(":")[0] for run in of for sentence in run["broken"])
        totals[database] = {
            "seeds": len(of),
            **{name: sum(run[name] for run in of) for name in
               ("jobs", "faults", "executions", "extra_executions", "in_flight_at_faults", "late_settles_fenced")},
            "lost": words.pop("lost", 0),
            "doubled": words.pop("doubled", 0),
            "other_broken_promises": sum(words.values()),
            "recovery_p50_s_of_the_worst_seed": max((run["recovery"].get("p50_s", 0.0) for run in of), default=0.0),
            "recovery_p99_s_of_the_worst_seed": max((run["recovery"].get("p99_s", 0.0) for run in of), default=0.0),
        }  # fmt: skip
    return totals


def _show(title: str, broken: Sequence[str], figures: Mapping[str, Any]) -> int:
    print(f"\n{title}")
    for name, value in figures.items():
        print(f"  {name:24}{value}")
    for sentence in broken[:40]:
        print(f"  BROKEN  {sentence}")
    print(f"  {'every promise held' if not broken else f'{len(broken)} promises broken'}", flush=True)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
