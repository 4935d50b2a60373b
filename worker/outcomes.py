"""What an exception does to a job: one table, read from top to bottom.

| raised                      | job goes to             | charged | the process |
|-----------------------------|-------------------------|---------|-------------|
| Cancelled                   | cancelled               | no      | stays       |
| DeadlineExceeded            | discarded               | no      | stays       |
| LeaseLost                   | nowhere: not ours       | no      | stays       |
| ShuttingDown                | available               | no      | ends anyway |
| CardFailed                  | left to the supervisor  | no      | ends now    |
| InputError                  | discarded               | no      | stays       |
| SubmitRefused               | discarded               | no      | stays       |
| NotFound                    | discarded               | no      | stays       |
| Unstorable                  | discarded               | yes     | stays       |
| ModelUnavailable            | retryable               | yes     | stays       |
| OutOfMemory                 | retryable               | yes     | stays       |
| MemoryError                 | retryable               | yes     | stays       |
| StorageUnavailable          | retryable               | no      | stays       |
| Exception                   | retryable               | yes     | stays       |
| BaseException               | retryable               | yes     | stays       |

CardSuspect is a CardFailed: the process ends with another status, and its card is checked before the
next one starts. A retryable job whose budget is used up is discarded instead. The last row is for a library that
calls `sys.exit`: in a thread that ends nothing, so it is an error like any other. A full disk is StorageFull,
which is StorageUnavailable, whoever met it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from soundmill.models.errors import (
    Cancelled,
    CardFailed,
    DeadlineExceeded,
    InputError,
    LeaseLost,
    ModelUnavailable,
    OutOfMemory,
    ShuttingDown,
)
from soundmill.storage.attempts import Claimed, Settlement
from soundmill.storage.errors import NotFound, StorageFull, StorageUnavailable, SubmitRefused, Unstorable
from soundmill.storage.lifecycle import State, backoff_s
from soundmill.storage.scratch import DISK_IS_FULL

UNSTORABLE = "unstorable_result"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A row of the table.

    Attributes:
        state: Where the job goes; `None` leaves the row alone.
        outcome: The word for the attempt's row.
        code: The stable error code, or `None` to say nothing.
        charge: Whether it counts against the job's budget.
        ends_process: Whether the process must not go on.
        sentence: What the submitter is told in place of the exception's own message.
    """

    state: State | None
    outcome: str
    code: str | None = None
    charge: bool = False
    ends_process: bool = False
    sentence: str | None = None


TABLE: tuple[tuple[type[BaseException], Verdict], ...] = (
    (Cancelled, Verdict(state=State.CANCELLED, outcome="cancelled", code="cancelled",
                        sentence="cancelled while it ran")),
    (DeadlineExceeded, Verdict(state=State.DISCARDED, outcome="discarded", code="deadline_exceeded",
                               sentence="the deadline passed while it ran; allow more time")),
    (LeaseLost, Verdict(state=None, outcome="lost")),
    (ShuttingDown, Verdict(state=State.AVAILABLE, outcome="handed_back")),
    (CardFailed, Verdict(state=None, outcome="crashed", ends_process=True)),
    (InputError, Verdict(state=State.DISCARDED, outcome="discarded", code="bad_input")),
    (SubmitRefused, Verdict(state=State.DISCARDED, outcome="discarded", code="bad_input")),
    (NotFound, Verdict(state=State.DISCARDED, outcome="discarded", code="input_missing")),
    (Unstorable, Verdict(state=State.DISCARDED, outcome="discarded", code=UNSTORABLE, charge=True)),
    (ModelUnavailable, Verdict(state=State.RETRYABLE, outcome="failed", code="model_unavailable", charge=True)),
    (OutOfMemory, Verdict(state=State.RETRYABLE, outcome="failed", code="out_of_memory", charge=True)),
    (MemoryError, Verdict(state=State.RETRYABLE, outcome="failed", code="out_of_memory", charge=True,
                          sentence="the host ran out of memory; give the worker more or send shorter input")),
    (StorageUnavailable, Verdict(state=State.RETRYABLE, outcome="failed", code="storage_unavailable")),
    (Exception, Verdict(state=State.RETRYABLE, outcome="failed", code="handler_error", charge=True)),
    (BaseException, Verdict(state=State.RETRYABLE, outcome="failed", code="handler_error", charge=True)),
)  # fmt: skip


def judge(error: BaseException) -> Verdict:
    """The row of the table that applies: the first whose class the error is of."""
    return next(verdict for kind, verdict in TABLE if isinstance(error, kind))


def settlement_of(job: Claimed, error: BaseException, rng: random.Random) -> Settlement | None:
    """How an attempt that ended with `error` is written down; `None` leaves the row alone.

    Args:
        job: What was attempted.
        error: What it raised.
        rng: The source of the jitter of the backoff.
    """
    error = full_disk_of(error) or error
    verdict = judge(error)
    if verdict.state is None:
        return None
    state, failures = verdict.state, job.failures + verdict.charge
    if state == State.RETRYABLE and failures >= job.max_failures and verdict.charge:
        state = State.DISCARDED
    return Settlement(
        id=job.id,
        attempt=job.attempt,
        state=state,
        outcome="discarded" if state == State.DISCARDED else verdict.outcome,
        error_code=verdict.code,
        error=None if verdict.code is None else verdict.sentence or _words(error),
        charge=verdict.charge,
        # What charges nothing may go on for hours: then the attempts say how rarely to try again.
        backoff_s=backoff_s(failures if verdict.charge else job.attempt, rng)
        if state == State.RETRYABLE
        else 0.0,
    )


def full_disk_of(error: BaseException) -> StorageFull | None:
    """A full disk in our words, where that is what ended an attempt.

    A handler writes its files by itself, so it meets the system's own error.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StorageFull):
            return cause
        if isinstance(cause, OSError) and cause.errno in DISK_IS_FULL:
            return StorageFull("no space is left where the worker writes; free some, or move storage_url")
        cause = cause.__cause__
    return None


def _words(error: BaseException) -> str:
    # No database's text has lone surrogates, and PostgreSQL's no NUL.
    text = str(error).encode("utf-8", "replace").decode().replace("\x00", "\ufffd").strip()
    known = type(error).__module__.startswith("soundmill.")
    return (text if known and text else f"the model failed with {type(error).__name__}: {text}")[:2000]
