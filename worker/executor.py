"""An attempt at a job: claim → perform → settle. Every message ends up here."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from soundmill.models.errors import CardFailed, CardSuspect
from soundmill.models.handler import Handler, Output, OutputFile
from soundmill.storage.attempts import Made, Settlement, mark_alone
from soundmill.storage.blobs import BlobStore
from soundmill.storage.catalog import Catalog
from soundmill.storage.database import Database
from soundmill.storage.errors import StorageUnavailable, Unstorable
from soundmill.storage.lifecycle import CANCELLED, State
from soundmill.storage.queue import Publisher
from soundmill.storage.window import mark_published, wakes_of

from .attempt import Attempt, Attempts
from .inputs import SoundCheck, local_inputs
from .ledger import Ledger
from .metrics.card import CardMeasures
from .outbox import Outbox
from .outcomes import UNSTORABLE, full_disk_of, settlement_of
from .pulse import Pulse
from .solo import SoloGate

logger = logging.getLogger(__name__)

EXIT_CARD_FAILED = 70
"""The exit status of a process that gave its card up: the supervisor blames the jobs it held."""

EXIT_CARD_SUSPECT = 71
"""The same, where the card itself may be broken: the supervisor has it checked before it is used again."""

POLL_S = 0.2
WAKES_AT_ONCE = 32  # a parent of thousands leaves the rest to the dispatcher, which knows the window


class Ending(Enum):
    """What a message came to, for Celery's eyes."""

    COMPLETED = "completed"
    RETRYABLE = "retryable"
    DISCARDED = "discarded"
    CANCELLED = "cancelled"
    HANDED_BACK = "handed_back"
    NOTHING = "nothing"  # a duplicate message, or an attempt that lost its job


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How an execution ended."""

    ending: Ending
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The figures that the executor needs of the settings."""

    step_s: float
    load_s: float
    metrics_file: bool


class Executor:
    """Performs jobs on one card; called by many threads at once."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        catalog: Catalog,
        handlers: Mapping[str, Handler],
        slots: Mapping[str, int],
        ledger: Ledger,
        attempts: Attempts,
        pulse: Pulse,
        publisher: Publisher,
        limits: Limits,
        sounds: SoundCheck | None = None,
        measures: CardMeasures | None = None,
        on_again: Callable[[str], None] = lambda job_id: None,
    ) -> None:
        """Put together what an attempt needs.

        Args:
            database: The job table.
            blobs: Where inputs are read and outputs put.
            catalog: Tells which arguments are audio.
            handlers: The loaded models, by id.
            slots: How many jobs each of them performs at once.
            ledger: Writes claims and settles.
            attempts: Where those that run are to be found.
            pulse: What the watchdog looks at.
            publisher: Wakes children.
            limits: Of phases.
            sounds: Looks at the audio that submitters gave before a handler does; `None` looks at none.
            measures: Counts what becomes of attempts.
            on_again: Told of a job that begins another attempt.
        """
        self._database = database
        self._blobs = blobs
        self._catalog = catalog
        self._handlers = handlers
        self._slots = {model: threading.BoundedSemaphore(count) for model, count in slots.items()}
        self._ledger = ledger
        self._attempts = attempts
        self._pulse = pulse
        self._publisher = publisher
        self._limits = limits
        self._sounds = sounds
        self._measures = measures or CardMeasures("")
        self._on_again = on_again
        self._gate = SoloGate()
        self._outbox = Outbox(blobs)
        self._rng = random.Random()

    def execute(self, job_id: str) -> Report:
        """Perform the job that a message names, if it is there to be performed."""
        try:
            job = self._ledger.claim(job_id)
        except StorageUnavailable:
            return Report(
                ending=Ending.HANDED_BACK
            )  # the row never changed; the reaper sends another message
        except Unstorable:
            logger.warning("a message named no job that could be one")
            return Report(ending=Ending.NOTHING)
        if job is None:
            return Report(ending=Ending.NOTHING)
        claimed_at = time.monotonic()
        if job.attempt > 1:
            self._on_again(job.id)
        attempt = Attempt(
            job, self._pulse, step_limit_s=self._limits.step_s, load_limit_s=self._limits.load_s
        )
        with self._attempts.holding(attempt):
            settlement = self._outcome(attempt)
            report = self._settle(attempt, settlement)
        self._measures.ended(
            job,
            _OUTCOMES[report.ending],
            code=report.code,
            took_s=time.monotonic() - claimed_at,
            seconds=attempt.seconds,
            metrics=None if settlement is None else settlement.metrics,
        )
        return report

    def _outcome(self, attempt: Attempt) -> Settlement | None:
        """Perform, and turn whatever happens into a settlement."""
        try:
            return self._perform(attempt)
        except CardFailed as error:
            logger.critical("the card failed; the process ends", extra=_named(attempt), exc_info=True)
            os._exit(EXIT_CARD_SUSPECT if isinstance(error, CardSuspect) else EXIT_CARD_FAILED)
        except BaseException as error:  # noqa: BLE001 - the table knows them all
            _log_failure(attempt, error)
            if full_disk_of(error) is not None:
                self._outbox.refused()
            return settlement_of(attempt.job, error, self._rng)

    def _perform(self, attempt: Attempt) -> Settlement:
        job = attempt.job
        with ExitStack() as stack:
            enter = self._gate.alone if job.suspect else self._gate.together
            stack.enter_context(enter(attempt.raise_if_stopped))
            attempt.raise_if_stopped()
            if job.suspect:
                with self._database.write() as connection:
                    mark_alone(connection, job.id, job.attempt)
            self._outbox.wait(attempt.raise_if_stopped)
            attempt.make_scratch = lambda: stack.enter_context(self._blobs.scratch())
            handler = self._handlers[job.model]
            request = stack.enter_context(self._request(handler, attempt))
            with self._slot(attempt), self._measures.running(job.model), attempt.watched():
                output = handler.perform(request, attempt)
            attempt.raise_if_stopped()
            return self._store(attempt, output)

    @contextmanager
    def _slot(self, attempt: Attempt) -> Iterator[None]:
        """Hold one of the handler's slots; those in hand beyond them prepare or write meanwhile."""
        slots = self._slots[attempt.job.model]
        while not slots.acquire(timeout=POLL_S):
            attempt.raise_if_stopped()
        try:
            attempt.raise_if_stopped()
            yield
        finally:
            slots.release()

    def _request(self, handler: Handler, attempt: Attempt) -> Any:
        job, sounds = attempt.job, self._sounds
        model = self._catalog.get(job.model)
        args = model.restore(job.args, job.args_version)

        def check(field: str, sha256: str, path: Path) -> None:
            if sounds is not None:
                sounds.require(field, sha256, path, attempt.raise_if_stopped)

        return local_inputs(self._database, self._blobs, handler.request, args, model.audio_fields, check)

    def _store(self, attempt: Attempt, output: Output) -> Settlement:
        """Put the files into the blob store; from here on they are only waiting for the row."""
        begun = time.monotonic()
        made = [self._put(attempt, file) for file in output.files]
        attempt.seconds["write"] += time.monotonic() - begun
        metrics = self._metrics(attempt, output)
        if self._limits.metrics_file and attempt.job.batch_id == f"{attempt.job.tenant}/":
            made.append(self._put(attempt, _metrics_file(attempt.scratch, metrics)))
        return Settlement(
            id=attempt.job.id,
            attempt=attempt.job.attempt,
            state=State.COMPLETED,
            outcome="completed",
            result=output.result,
            metrics=metrics,
            artifacts=tuple(made),
        )

    def _put(self, attempt: Attempt, file: OutputFile) -> Made:
        blob = self._outbox.put(file.path, attempt.raise_if_stopped)
        return Made(
            name=file.name, role=file.role, sha256=blob.sha256, size=blob.size, media_type=file.media_type
        )

    def _metrics(self, attempt: Attempt, output: Output) -> dict[str, Any]:
        job = attempt.job
        phases = {f"{name}_s": round(seconds, 6) for name, seconds in attempt.seconds.items()}
        run_s = sum(attempt.seconds.values())
        metrics: dict[str, Any] = {
            "queue_wait_s": round(max(job.started_at - job.available_at, 0.0), 6),
            **phases,
            "attempt": job.attempt,
            **output.metrics,
        }
        audio_s = output.metrics.get("audio_s")
        if isinstance(audio_s, float | int) and audio_s > 0:
            metrics["real_time_factor"] = round(run_s / audio_s, 6)
        return metrics

    def _settle(self, attempt: Attempt, settlement: Settlement | None) -> Report:
        if settlement is None:
            return Report(ending=Ending.NOTHING)
        try:
            settled = self._ledger.settle(settlement)
        except Unstorable as error:
            if settlement.error_code == UNSTORABLE:
                # Not even that can be written: it is not the result's fault. The lease runs out.
                logger.exception("an attempt cannot be settled at all", extra=_named(attempt))
                return Report(ending=Ending.NOTHING)
            return self._settle(attempt, settlement_of(attempt.job, error, self._rng))
        except StorageUnavailable:
            return Report(ending=Ending.NOTHING)  # shutting down without a database: the lease runs out
        self._wake(settled.freed)  # of the whole group, so before this job's own end is looked at
        if attempt.job.id not in settled.applied:
            logger.warning("an attempt lost its job before it could settle", extra=_named(attempt))
            return Report(ending=Ending.NOTHING)
        if attempt.job.id in settled.stopped:
            return Report(ending=Ending.CANCELLED, code=CANCELLED)
        return Report(ending=_ENDINGS[settlement.state], code=settlement.error_code)

    def _wake(self, freed: tuple[str, ...]) -> None:
        """Send the messages of children that may run now; the dispatcher does it where this fails."""
        if not freed:
            return
        try:
            with self._database.read() as connection:
                wakes = wakes_of(connection, freed[:WAKES_AT_ONCE])
            self._publisher.publish(wakes)
            with self._database.write() as connection:
                mark_published(connection, self._database, wakes)
        except StorageUnavailable:
            logger.info("children wait for the dispatcher", extra={"jobs": len(freed)})


_ENDINGS = {
    State.COMPLETED: Ending.COMPLETED,
    State.RETRYABLE: Ending.RETRYABLE,
    State.DISCARDED: Ending.DISCARDED,
    State.CANCELLED: Ending.CANCELLED,
    State.AVAILABLE: Ending.HANDED_BACK,
}

_OUTCOMES = {
    Ending.COMPLETED: "completed",
    Ending.RETRYABLE: "failed",
    Ending.DISCARDED: "discarded",
    Ending.CANCELLED: "cancelled",
    Ending.HANDED_BACK: "handed_back",
    Ending.NOTHING: "lost",
}
"""What the row of the attempt says."""


def _metrics_file(scratch: Path, metrics: Mapping[str, Any]) -> OutputFile:
    path = scratch / "metrics.json"
    try:
        path.write_text(json.dumps(metrics, allow_nan=False, indent=1), encoding="utf-8")
    except (ValueError, TypeError) as error:
        raise Unstorable(f"the handler's metrics are no JSON ({error})") from error
    return OutputFile(name="metrics.json", path=path, media_type="application/json", role="metrics")


def _named(attempt: Attempt) -> dict[str, Any]:
    return {"job_id": attempt.job.id, "attempt": attempt.job.attempt, "model": attempt.job.model}


def _log_failure(attempt: Attempt, error: BaseException) -> None:
    # The message of an exception may quote the user's text, so only its class and place are logged.
    # Our own checkpoint is where every interrupted attempt ends; who called it says more.
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.endswith("attempt.py")]
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
    logger.info(
        "an attempt ended early",
        extra=_named(attempt) | {"error_class": type(error).__name__, "where": where},
    )
