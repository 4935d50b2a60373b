"""The life of a job: its states and the moves between them. Pure; no clock, no database.

                        submit
                          │
             parents or   │   nothing to
             a time to    │   wait for
             wait for ┌───┴───┐
                      ▼       │
                 scheduled    │
                      │ due   │
                      ▼       ▼
      ┌──────────► available ◄────────────── retryable
      │               │ claim                    ▲
      │ hand back,    ▼                          │ failed, and
      │ rescue     executing ────────────────────┤ may try again
      └───────────────┤                          │
                      ├──► completed             │
                      ├──► discarded  ◄──────────┘ (deadline passed while waiting)
                      └──► cancelled

A job that has not started can be cancelled, or discarded when its deadline passes. `retry` by a
person brings `discarded` and `cancelled` back to `available` (or `scheduled`).
"""

from __future__ import annotations

import random
from enum import StrEnum


class State(StrEnum):
    """Where a job is. The value is what the job table holds."""

    SCHEDULED = "scheduled"  # waits for a time or for its parents
    AVAILABLE = "available"  # may run; a worker that hears of it may claim it
    EXECUTING = "executing"  # an attempt holds its lease
    RETRYABLE = "retryable"  # failed, and waits out its backoff
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"  # will never run again; the reason is on the row

    @property
    def final(self) -> bool:
        """Whether nothing but a person's retry moves the job again."""
        return self in FINAL


FINAL = frozenset({State.COMPLETED, State.CANCELLED, State.DISCARDED})
FAILED = frozenset({State.CANCELLED, State.DISCARDED})
WAITING = frozenset({State.SCHEDULED, State.AVAILABLE, State.RETRYABLE})

CANCELLED = "cancelled"
"""The error code of a job that somebody cancelled."""
CANCELLED_RUNNING = "cancelled while it ran"

MOVES: dict[State, frozenset[State]] = {
    State.SCHEDULED: frozenset({State.AVAILABLE, State.CANCELLED, State.DISCARDED}),
    State.AVAILABLE: frozenset({State.EXECUTING, State.CANCELLED, State.DISCARDED}),
    State.EXECUTING: frozenset(
        {State.AVAILABLE, State.RETRYABLE, State.COMPLETED, State.CANCELLED, State.DISCARDED}
    ),
    State.RETRYABLE: frozenset({State.AVAILABLE, State.CANCELLED, State.DISCARDED}),
    State.COMPLETED: frozenset(),
    State.CANCELLED: frozenset({State.AVAILABLE, State.SCHEDULED}),
    State.DISCARDED: frozenset({State.AVAILABLE, State.SCHEDULED}),
}

BACKOFF_BASE_S = 2.0
BACKOFF_CAP_S = 300.0


def backoff_s(failures: int, rng: random.Random) -> float:
    """How long a job waits after its `failures`-th failure: doubling, capped, with full jitter.

    Half of the span is fixed so that a retry never follows at once; the rest is jitter, so that
    jobs that failed together do not come back together.

    Args:
        failures: Failures so far, at least 1.
        rng: The source of the jitter.
    """
    span = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(failures - 1, 30))
    return span / 2 + rng.random() * span / 2
