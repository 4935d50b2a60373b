"""The faults of processes: workers, supervisors, producers, and the engine of a card."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import device_texts
import psutil
from blow import Act, Blow
from event_log import events
from plan import prefix_of
from seat import Seat, incarnation_of
from sqlalchemy import func, select
from stage import Stage

from soundmill.storage.rows import Job

TAKEN_S = 8.0
GONE_S = 40.0


def _at_work(stage: Stage, rng: random.Random) -> tuple[Seat, psutil.Process] | None:
    """A seat whose card has a process; one that holds jobs, if there is one."""
    limit = time.monotonic() + TAKEN_S
    while time.monotonic() < limit:
        seats = rng.sample(stage.seats, len(stage.seats))
        found = [(seat, worker) for seat in seats if (worker := seat.worker()) is not None]
        for seat, worker in found:
            if stage.executing(incarnation_of(worker)):
                return seat, worker
        if found and time.monotonic() > limit - TAKEN_S / 2:
            return found[0]
        time.sleep(0.02)
    return None


def kill_worker(stage: Stage, rng: random.Random) -> Blow:
    found = _at_work(stage, rng)
    if found is None:
        return Blow(delivered=False)
    _, worker = found
    name = incarnation_of(worker)
    worker.suspend()  # what it holds must not change between the look and the kill
    held = stage.executing(name)
    worker.kill()
    return Blow(in_flight=held, victims=(name,))


def stop_worker(stage: Stage, rng: random.Random) -> Blow:
    """What a deploy does: SIGTERM, and the supervisor starts the next one."""
    found = _at_work(stage, rng)
    if found is None:
        return Blow(delivered=False)
    _, worker = found
    name = incarnation_of(worker)
    begun = time.monotonic()
    worker.terminate()
    _await_end(worker)
    return Blow(victims=(name,), facts={"exit_s": round(time.monotonic() - begun, 2)})


def freeze_worker(stage: Stage, rng: random.Random) -> Blow:
    """SIGSTOP beyond the lease and the reaper's round, then SIGCONT: its settles come too late."""
    found = _at_work(stage, rng)
    if found is None:
        return Blow(delivered=False)
    _, worker = found
    name = incarnation_of(worker)
    worker.suspend()
    struck = time.time()
    held = stage.executing(name)
    time.sleep(stage.settings.lease_s + stage.settings.reaper_s + rng.uniform(1.0, 3.0))
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.resume()
    return Blow(in_flight=held, victims=(name,), clock=struck)


def kill_supervisor(stage: Stage, rng: random.Random, *, with_worker: bool = False) -> Blow:
    """SIGKILL: its worker sees the closed pipe, hands back and leaves. Somebody starts it again."""
    found = _at_work(stage, rng)
    if found is None:
        return Blow(delivered=False)
    seat, worker = found
    name = incarnation_of(worker)
    worker.suspend()
    held = stage.executing(name)
    if with_worker:
        psutil.Process(seat.pid).suspend()  # nobody may see the other one die
        worker.kill()
    psutil.Process(seat.pid).kill()
    struck = time.time()
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.resume()
    seat.bury()
    time.sleep(rng.uniform(0.0, 1.0))
    seat.start()
    return Blow(in_flight=held, victims=(name,), clock=struck)


def kill_both(stage: Stage, rng: random.Random) -> Blow:
    """Worker and supervisor at the same moment: only the lease tells."""
    return kill_supervisor(stage, rng, with_worker=True)


def roll_supervisor(stage: Stage, rng: random.Random) -> Blow:
    """SIGTERM of a whole host's worth, and a fresh start."""
    seat = rng.choice(stage.seats)
    if not seat.runs:
        return Blow(delivered=False)
    worker = seat.worker()
    name = "" if worker is None else incarnation_of(worker)
    begun = time.monotonic()
    assert seat.supervisor is not None
    seat.supervisor.terminate()
    try:
        status = seat.supervisor.wait(timeout=GONE_S)
    except subprocess.TimeoutExpired:
        seat.supervisor.kill()
        status = seat.supervisor.wait()
    took = time.monotonic() - begun
    seat.bury()
    seat.start()
    return Blow(victims=(name,), facts={"exit_s": round(took, 2), "status": status})


def freeze_supervisor(stage: Stage, rng: random.Random) -> Blow:
    """SIGSTOP beyond the leader's lease: somebody else has to lead."""
    seat = rng.choice(stage.seats)
    process = psutil.Process(seat.pid)
    process.suspend()
    time.sleep(stage.settings.leader_lease_s + rng.uniform(1.0, 4.0))
    process.resume()
    return Blow()


def kill_producer(stage: Stage, rng: random.Random) -> Blow:
    """SIGKILL in the middle of a submit, if one is under way; then it asks again with the same keys."""
    number = rng.randrange(stage.cast.producers)
    log = stage.producer_log(number)
    limit = time.monotonic() + TAKEN_S / 2
    while time.monotonic() < limit and stage.submits(number):
        last = log.read_bytes()[-200:].splitlines()[-1:]
        if last and b'"submitting"' in last[0]:
            break
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, 0.03))
    if not stage.kill_producer(number):
        return Blow(delivered=False)
    halves = _halves(stage, number)
    stage.start_producer(number)
    return Blow(facts={"producer": number, "half_written": halves})


def _halves(stage: Stage, number: int) -> list[str]:
    """The chunks of a dead producer of which there is a part: none, as each is one transaction."""
    time.sleep(0.5)  # a commit that was on its way to the server comes there
    asked: dict[int, int] = {}
    for event in events(stage.producer_log(number)):
        if event["what"] == "submitting":
            asked[event["chunk"]] = event["jobs"]
    halves = []
    with stage.database.read() as connection:
        for chunk, jobs in sorted(asked.items())[-2:]:
            prefix = prefix_of(stage.cast.seed, number, chunk)
            query = select(func.count()).select_from(Job).where(Job.idempotency_key.startswith(prefix))
            there = int(connection.execute(query).scalar_one())
            if there not in (0, jobs):
                halves.append(f"{there} of the {jobs} jobs of chunk {chunk} of producer {number}")
    return halves


def _await_end(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.wait(timeout=GONE_S)


# -- the engine --------------------------------------------------------------------------------------


def ordered(kind: str) -> Act:
    """An order to the engine of a card; it is obeyed before its next call."""

    def act(stage: Stage, rng: random.Random) -> Blow:
        found = _at_work(stage, rng)
        if found is None:
            return Blow(delivered=False)
        seat, worker = found
        name = incarnation_of(worker)
        text = rng.choice(device_texts.OF_KIND.get(kind, ("",)))
        times = rng.choice((1, 2, 6)) if kind == "oom" else 1
        taken = _place_order(stage, seat.card, kind, {"text": text, "times": times})
        if taken is None:
            return Blow(delivered=False)
        if kind == "oom":
            return Blow(clock=taken, facts={"times": times})
        held = _held_until_gone(stage, worker, name)
        late_s = stage.settings.watchdog_decode_s if kind == "hang" else 0.0
        return Blow(
            in_flight=held, victims=(name,), clock=taken, late_s=late_s, facts={"text": text.splitlines()[:1]}
        )

    return act


def _place_order(stage: Stage, card: str, kind: str, order: Mapping[str, Any]) -> float | None:
    path = stage.orders / f"{card.replace(':', '-')}.{kind}"
    draft = stage.orders / "draft"
    draft.write_text(json.dumps(order))
    draft.rename(path)
    limit = time.monotonic() + TAKEN_S
    while path.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    try:
        path.unlink()
    except FileNotFoundError:
        return time.time()
    return None


def _held_until_gone(stage: Stage, worker: psutil.Process, name: str) -> int:
    """The most jobs that the process held until it ended."""
    held, limit = 0, time.monotonic() + GONE_S
    while time.monotonic() < limit:
        held = max(held, stage.executing(name))
        with contextlib.suppress(psutil.NoSuchProcess):
            if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        break
    return held
