"""What an exception does to a job."""

from __future__ import annotations

import errno
import inspect
import random
import re
from types import ModuleType
from typing import Any

import pytest

from soundmill.models import errors as model_errors
from soundmill.models.errors import (
    Cancelled,
    CardFailed,
    DeadlineExceeded,
    InputError,
    Interrupted,
    LeaseLost,
    ModelError,
    ModelUnavailable,
    OutOfMemory,
    ShuttingDown,
)
from soundmill.storage import errors as storage_errors
from soundmill.storage.attempts import Claimed, Settlement
from soundmill.storage.errors import NotFound, StorageError, StorageUnavailable, SubmitRefused, Unstorable
from soundmill.storage.lifecycle import MOVES, State
from soundmill.worker import errors as worker_errors
from soundmill.worker import outcomes
from soundmill.worker.errors import WorkerError
from soundmill.worker.outcomes import TABLE, judge, settlement_of

# Which row is meant for which class, and for all that are derived from it unless they stand here too.
MEANT: dict[type[BaseException], type[BaseException]] = {
    ModelError: Exception,
    InputError: InputError,
    ModelUnavailable: ModelUnavailable,
    OutOfMemory: OutOfMemory,
    CardFailed: CardFailed,
    Interrupted: Exception,
    Cancelled: Cancelled,
    DeadlineExceeded: DeadlineExceeded,
    LeaseLost: LeaseLost,
    ShuttingDown: ShuttingDown,
    StorageError: Exception,
    StorageUnavailable: StorageUnavailable,
    NotFound: NotFound,
    SubmitRefused: SubmitRefused,
    WorkerError: Exception,
    Unstorable: Unstorable,
    worker_errors.JobDiscarded: Exception,
    MemoryError: MemoryError,
    SystemExit: BaseException,
    KeyboardInterrupt: BaseException,
}


def job(**changes: Any) -> Claimed:
    values: dict[str, Any] = {
        "id": "01J", "attempt": 1, "tenant": "t", "batch_id": "t/", "kind": "drill", "model": "drill", "args": {},
        "args_version": 1, "priority": 4, "failures": 0, "max_failures": 3, "suspect": False, "available_at": 0.0,
        "started_at": 1.0, "deadline_at": None, "lease_until": 30.0,
    }  # fmt: skip
    return Claimed(**values | changes)


def settled(error: BaseException, **changes: Any) -> Settlement:
    settlement = settlement_of(job(**changes), error, random.Random(7))
    assert settlement is not None
    return settlement


def classes_of(module: ModuleType) -> list[type[BaseException]]:
    own = (
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__
    )
    return [value for value in own if issubclass(value, BaseException)]


EVERY_CLASS = [*classes_of(model_errors), *classes_of(storage_errors), *classes_of(worker_errors)]


@pytest.mark.parametrize(
    "kind", [*EVERY_CLASS, MemoryError, RuntimeError, SystemExit], ids=lambda kind: kind.__name__
)
def test_every_error_is_judged_by_the_row_that_is_meant_for_it(kind: type[BaseException]) -> None:
    meant = next((MEANT[base] for base in kind.__mro__ if base in MEANT), Exception)
    rows = dict(TABLE)
    assert judge(kind("it happened")) is rows[meant]


def test_the_table_in_the_docstring_is_the_table() -> None:
    text = outcomes.__doc__ or ""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    written = rows[2:]
    assert [name for name, *_ in written] == [kind.__name__ for kind, _ in TABLE]
    for (name, goes, charged, process), (_, verdict) in zip(written, TABLE, strict=True):
        state = verdict.state
        assert goes.startswith(state.value) if state else goes.startswith(("nowhere", "left")), name
        assert (charged == "yes") == verdict.charge, name
        assert (process == "ends now") == verdict.ends_process, name


def test_a_row_is_not_hidden_by_one_above_it() -> None:
    for place, (kind, _) in enumerate(TABLE):
        assert not any(issubclass(kind, earlier) for earlier, _ in TABLE[:place]), kind


def test_every_row_is_a_move_that_an_executing_job_can_make() -> None:
    assert {verdict.state for _, verdict in TABLE if verdict.state} <= MOVES[State.EXECUTING]


def test_a_lost_lease_and_a_failed_card_leave_the_row_alone() -> None:
    assert settlement_of(job(), LeaseLost(), random.Random()) is None
    assert settlement_of(job(), CardFailed("gone"), random.Random()) is None


def test_a_charged_error_is_retried_until_the_budget_is_used_up() -> None:
    states = [settled(RuntimeError("no"), failures=failures).state for failures in (0, 1, 2)]
    assert states == [State.RETRYABLE, State.RETRYABLE, State.DISCARDED]
    last = settled(RuntimeError("no"), failures=2)
    assert (last.outcome, last.error_code, last.charge) == ("discarded", "handler_error", True)


def test_the_backoff_doubles_with_the_failures() -> None:
    first = settled(OutOfMemory("no"), failures=0)
    fifth = settled(OutOfMemory("no"), failures=4, max_failures=9)
    assert 1 <= first.backoff_s <= 2
    assert 16 <= fifth.backoff_s <= 32


def test_an_outage_never_uses_up_the_budget_but_is_asked_after_ever_more_rarely() -> None:
    settlement = settled(StorageUnavailable("away"), failures=2, attempt=20)
    assert (settlement.state, settlement.charge) == (State.RETRYABLE, False)
    assert settlement.backoff_s >= 150
    assert settled(StorageUnavailable("away")).backoff_s <= 2


def test_a_full_disk_is_no_fault_of_the_job_that_meets_it() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("the file could not be written")
    wrapped.__cause__ = full

    for error in (full, wrapped, OSError(errno.EDQUOT, "Disk quota exceeded")):
        settlement = settled(error, failures=2)
        assert (settlement.state, settlement.charge) == (State.RETRYABLE, False)
        assert settlement.error_code == "storage_unavailable"
    assert settled(OSError(errno.EIO, "broken")).charge


def test_a_hand_back_says_nothing_and_charges_nothing() -> None:
    settlement = settled(ShuttingDown())
    assert (settlement.state, settlement.outcome) == (State.AVAILABLE, "handed_back")
    assert settlement.error_code is None
    assert settlement.error is None
    assert not settlement.charge


def test_a_library_that_exits_is_charged_like_any_other_error() -> None:
    assert settled(SystemExit(3)).charge
    assert settled(SystemExit(3), failures=2).state == State.DISCARDED


def test_our_own_sentences_reach_the_submitter_as_they_are() -> None:
    assert settled(InputError("speak up")).error == "speak up"
    assert (
        settled(MemoryError()).error
        == "the host ran out of memory; give the worker more or send shorter input"
    )
    assert settled(RuntimeError("odd")).error == "the model failed with RuntimeError: odd"


@pytest.mark.parametrize("text", ["a\0b", "lone \ud800 surrogate", "x" * 100_000])
def test_no_message_is_refused_by_a_database(text: str) -> None:
    error = settled(RuntimeError(text)).error
    assert error is not None
    assert len(error) <= 2000
    assert "\0" not in error
    error.encode()


def test_every_code_is_a_stable_word() -> None:
    codes = {verdict.code for _, verdict in TABLE if verdict.code is not None}
    assert all(re.fullmatch(r"[a-z_]{1,40}", code) for code in codes)
