"""The faults and the deck that they are dealt from. Each strikes, lasts, and is over when its function returns."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import process_faults as processes
import psutil
import server_faults as servers
from blow import Act, Blow
from stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A fault that can be dealt.

    Attributes:
        act: What it does.
        cards: How often it is in a deck.
        loses_messages: Whether wake-ups may be lost by it, so that jobs wait for the reaper.
        storage: Whether the job table itself cannot be reached: nothing recovers before it is back.
        only: The database that it is for; `None` for both.
        engine: Whether it needs the engine.
    """

    act: Act
    cards: int = 1
    loses_messages: bool = True
    storage: bool = False
    only: str | None = None
    engine: bool = False


KINDS: dict[str, Kind] = {
    "worker SIGKILL": Kind(act=processes.kill_worker, cards=5),
    "worker SIGTERM": Kind(act=processes.stop_worker, cards=3),
    "worker SIGSTOP": Kind(act=processes.freeze_worker, cards=2),
    "supervisor SIGKILL": Kind(act=processes.kill_supervisor, cards=2),
    "supervisor and worker SIGKILL": Kind(act=processes.kill_both),
    "supervisor SIGTERM": Kind(act=processes.roll_supervisor, cards=2),
    "supervisor SIGSTOP": Kind(act=processes.freeze_supervisor),
    "producer SIGKILL": Kind(act=processes.kill_producer, cards=3, loses_messages=False),
    "engine out of memory": Kind(act=processes.ordered("oom"), loses_messages=False, engine=True),
    "engine fatal": Kind(act=processes.ordered("fatal"), engine=True),
    "engine card": Kind(act=processes.ordered("card"), engine=True),
    "engine hang": Kind(act=processes.ordered("hang")),
    "engine segfault": Kind(act=processes.ordered("segfault")),
    "redis SIGKILL": Kind(act=servers.kill_redis),
    "redis restart": Kind(act=servers.restart_redis),
    "redis FLUSHALL": Kind(act=servers.flush_redis, cards=2),
    "redis SIGSTOP": Kind(act=servers.freeze_redis),
    "redis maxmemory": Kind(act=servers.fill_redis),
    "redis stalled": Kind(act=servers.stall_redis),
    "redis cut": Kind(act=servers.drop_redis),
    "redis and worker SIGKILL": Kind(act=servers.kill_redis_and_worker),
    "database crash": Kind(act=servers.crash_database, cards=2, storage=True, only="postgres"),
    "database stalled": Kind(act=servers.stall_database, storage=True, only="postgres"),
    "database cut": Kind(act=servers.drop_database, cards=2, storage=True, only="postgres"),
    "database locked": Kind(act=servers.lock_database, cards=3, storage=True, only="sqlite"),
    "disk full": Kind(act=servers.fill_disk, loses_messages=False),
}


def deck(
    rng: random.Random, database: str, *, engine: bool, only: frozenset[str] = frozenset()
) -> Iterator[str]:
    """The names of faults without end: a shuffled deck, then the next. So each kind comes, and none too often."""
    names = [
        name
        for name, kind in KINDS.items()
        if kind.only in (None, database) and (engine or not kind.engine) and (not only or name in only)
        for _ in range(kind.cards)
    ]
    while True:
        yield from rng.sample(names, len(names))


def strike(stage: Stage, name: str, rng: random.Random) -> dict[str, Any]:
    """Let a fault happen; return what is kept of it."""
    kind = KINDS[name]
    at = time.time()
    try:
        blow = kind.act(stage, rng)
    except psutil.NoSuchProcess:  # it ended a moment before it was struck
        blow = Blow(delivered=False)
    until = time.time()
    record = asdict(blow) | {"clock": blow.clock or until}
    return {
        "kind": name, "at": at, "until": until, "loses_messages": kind.loses_messages, "storage": kind.storage,
        **record,
    }  # fmt: skip
