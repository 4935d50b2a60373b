"""The process of one card: loads the models, then lets Celery bring the jobs.

Started by the supervisor (`python -m soundmill.worker.card`), which holds the other end of its
standard input: when that pipe closes the supervisor is gone, and this process hands its jobs back
and leaves, so that no orphan keeps a card.
"""

from __future__ import annotations

import argparse
import faulthandler
import fcntl
import gc
import logging
import math
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import worker_ready, worker_shutting_down
from kombu.transport.redis import Channel

from soundmill.models.engine.watch import Limits as EngineLimits
from soundmill.models.errors import CardFailed, CardSuspect, ModelUnavailable, OutOfMemory
from soundmill.models.handler import Handler
from soundmill.models.station import Station
from soundmill.storage.blobs import open_blobs
from soundmill.storage.catalog import Catalog, load_catalog
from soundmill.storage.database import Database
from soundmill.storage.decisions import cancel
from soundmill.storage.errors import NotFound, SettingsError, StorageUnavailable
from soundmill.storage.examiner import Examiner
from soundmill.storage.listing import get_job
from soundmill.storage.queue import PATIENT, RESPONSIVE, Publisher, make_app, task_name
from soundmill.storage.settings import Settings, load_settings

from . import (
    control,  # noqa: F401 - replaces Celery's commands
    tasks,
)
from .attempt import Attempts
from .consumer import CardConsumer
from .errors import CardBusy, ChildFailed
from .executor import EXIT_CARD_FAILED, EXIT_CARD_SUSPECT, Executor, Limits
from .heartbeat import Heartbeat, Identity
from .inputs import SoundCheck
from .ledger import Ledger
from .logs import configure_logging
from .messages import Refusals, guard
from .metrics.card import CardMeasures, ProcessCollector
from .metrics.shared import FiguresWriter
from .options import options_of
from .pool import Intake, pool_with
from .pulse import Pulse

logger = logging.getLogger(__name__)

EXIT_UNUSABLE = 78
"""The exit status when nothing can be served here; trying again at once would change nothing."""

EXIT_FORSAKEN = 75
"""The exit status when the broker or the job table failed the process: no job is to blame."""

LEAVING_S = 5.0  # what a process needs to go beyond its grace
BEAT_S = 0.5
SILENT_LEAST_S = 3.0
IN_HAND_PER_SLOT = 1.5  # half as many again prepare or write while the slots are busy


def main(argv: list[str] | None = None) -> int:
    """Run the process of a card until it is told to stop; return its exit status."""
    options = _options(argv)
    settings = load_settings()
    configure_logging(card=options.card)
    faulthandler.enable()
    # Celery warns root because pickled messages could run anything; ours carry JSON only.
    warnings.simplefilter("ignore", SecurityWarning)
    # Messages in hand need not go back to a queue: the table sends others. With a dead Redis kombu would
    # pickle them into a temporary file at every reconnect.
    Channel.do_restore = False
    sys.setswitchinterval(0.0005)  # a busy Python thread must not make the engine's thread wait for 5 ms
    try:
        # The child of a killed supervisor may still be handing back.
        with card_lock(settings, options.card, wait_s=settings.shutdown_grace_s + LEAVING_S):
            return CardProcess(settings, options).run()
    except (CardBusy, ChildFailed, SettingsError) as error:
        logger.error("%s", error)
        return EXIT_UNUSABLE
    except StorageUnavailable as error:
        logger.error("%s", error)
        return EXIT_FORSAKEN
    except CardFailed as error:
        logger.critical("the card failed while it was made ready", exc_info=True)
        return EXIT_CARD_SUSPECT if isinstance(error, CardSuspect) else EXIT_CARD_FAILED


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soundmill.worker.card", description=__doc__)
    parser.add_argument("--card", required=True)
    parser.add_argument("--name", required=True, help="the worker's name in Flower")
    parser.add_argument("--incarnation", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--model", action="append", required=True, dest="models")
    parser.add_argument("--pulse", type=int, required=True, help="the open file that the watchdog reads")
    parser.add_argument("--figures", type=int, help="the open file that metrics are left in")
    return parser.parse_args(argv)


@contextmanager
def card_lock(settings: Settings, card: str, *, wait_s: float) -> Iterator[None]:
    """Hold the card of this host; a process that is just leaving it is waited for.

    Raises:
        CardBusy: Somebody else still holds it after `wait_s`.
    """
    folder = settings.state_dir / "cards"
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + wait_s
    with (folder / f"{card.replace(':', '-')}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise CardBusy(
                        f"another process of this host holds {card}; stop it or choose another card"
                    ) from None
                time.sleep(0.1)
        yield


def load_handlers(
    catalog: Catalog, models: Iterable[str], station: Station, settings: Settings, pulse: Pulse
) -> dict[str, Handler]:
    """Load every model that can be loaded here, then open the engine if one of them has asked for it.

    Raises:
        ChildFailed: None can; the message has the remedies.
        CardFailed: The card did not survive it.
    """
    handlers: dict[str, Handler] = {}
    troubles: list[str] = []
    for model_id in models:
        model = catalog.get(model_id)
        try:
            with pulse.watching("load", settings.watchdog_load_s):
                module, _, name = model.handler.partition(":")
                handler: Handler = getattr(import_module(module), name)()
                handler.load(station.place(options_of(settings, model)))
        except (ModelUnavailable, OutOfMemory, ImportError) as error:
            troubles.append(f"{model_id}: {error}")
            logger.warning("a model is not served here", extra={"model": model_id, "reason": str(error)})
        else:
            handlers[model_id] = handler
    if not handlers:
        raise ChildFailed("no model can be served on this card. " + " ".join(troubles))
    try:
        station.open()
    except (ModelUnavailable, OutOfMemory) as error:
        raise ChildFailed(str(error)) from error
    return handlers


class CardProcess:
    """The composition root of a card's process."""

    def __init__(self, settings: Settings, options: argparse.Namespace) -> None:
        self._settings = settings
        self._pulse = Pulse(options.pulse)
        os.close(options.pulse)  # it is mapped now, and nothing that a model starts should inherit it
        self._catalog = load_catalog(settings.plugins)
        self._station = Station(options.card, watch=self._pulse, limits=_engine_limits(settings))
        self._measures = CardMeasures(options.card)
        self._figures = self._open_figures(options.figures, options.card)
        self._handlers = load_handlers(self._catalog, options.models, self._station, settings, self._pulse)
        # What is alive now stays: the collector need not look at it again in the middle of a step.
        gc.collect()
        gc.freeze()
        self._slots = {model: settings.slots.get(model, h.slots) for model, h in self._handlers.items()}
        for model, count in self._slots.items():
            self._measures.serves(model, count)
        self._identity = Identity(
            name=options.name,
            incarnation=options.incarnation,
            host=options.host,
            card=options.card,
            models=tuple(self._handlers),
            slots=sum(self._slots.values()),
        )
        in_hand = {model: math.ceil(IN_HAND_PER_SLOT * count) for model, count in self._slots.items()}
        self._intake = Intake(in_hand)
        self._attempts = Attempts()
        self._refusals = Refusals(self._measures.refused)
        self._examiner = Examiner(settings.max_audio_s)
        self._database = Database(settings.database_url)
        self._ledger = Ledger(
            self._database,
            worker=options.incarnation,
            card=options.card,
            lease_s=settings.lease_s,
            linger_s=settings.group_linger_ms / 1000,
            in_flight=self._attempts.__len__,
        )
        self._consumer: Any = None  # Celery's, once it is ready
        self._publisher = Publisher(make_app(settings.broker_url, RESPONSIVE))
        self._heartbeat = Heartbeat(
            self._database,
            self._identity,
            self._attempts,
            every_s=settings.heartbeat_s,
            lease_s=settings.lease_s,
            on_draining=self._intake.drain,
        )

    def _open_figures(self, descriptor: int | None, card: str) -> FiguresWriter | None:
        if descriptor is None:
            return None
        self._measures.registry.register(ProcessCollector(self._station, card))
        writer = FiguresWriter(descriptor, self._measures.registry)
        os.close(descriptor)
        writer.start()
        return writer

    def run(self) -> int:
        """Serve until a signal or the supervisor's end; return the exit status."""
        app = self._make_app()
        worker = app.Worker(
            hostname=self._identity.name,
            queues=list(self._handlers),
            pool=pool_with(self._intake, self._terminate),
            consumer_cls=CardConsumer,
            concurrency=self._intake.total,
            loglevel=logging.WARNING,
            quiet=True,
            redirect_stdouts=False,
            without_mingle=True,
            without_gossip=True,
        )
        # Kept by name: Celery holds receivers weakly.
        on_ready, on_stopping = self._on_ready, self._on_stopping
        worker_ready.connect(on_ready)
        worker_shutting_down.connect(on_stopping)
        threading.Thread(target=self._leave_with_supervisor, name="supervisor-pipe", daemon=True).start()
        self._start_heartbeat()
        try:
            worker.start()
        finally:
            self._close()
        # Celery gives up when the broker refuses it, which no job can cause.
        return EXIT_FORSAKEN if worker.exitcode else 0

    def _make_app(self) -> Celery:
        app = make_app(self._settings.broker_url, PATIENT, self._handlers)
        kinds = sorted({self._catalog.get(model).kind for model in self._handlers})
        tasks.register(app, kinds)
        guard(self._refusals, frozenset(map(task_name, kinds)))
        app.executor = Executor(
            database=self._database,
            blobs=open_blobs(self._settings),
            catalog=self._catalog,
            handlers=self._handlers,
            slots=self._slots,
            ledger=self._ledger,
            attempts=self._attempts,
            pulse=self._pulse,
            publisher=self._publisher,
            limits=Limits(
                step_s=self._settings.watchdog_step_s,
                load_s=self._settings.watchdog_load_s,
                metrics_file=self._settings.metrics_file,
            ),
            measures=self._measures,
            sounds=SoundCheck(self._examiner),
            on_again=self._show_again,
        )
        app.canceller = self
        return app

    def _start_heartbeat(self) -> None:
        while True:
            try:
                return self._heartbeat.start()
            except StorageUnavailable:
                logger.warning("the worker waits for the database")
                time.sleep(1)

    def cancel_jobs(self, ids: Iterable[str]) -> None:
        """Write cancellations to the table, where nobody has, and stop what runs here."""
        for job_id in ids:
            try:
                self._cancel_job(job_id)
            except NotFound:
                logger.info("a revoke named no job of ours", extra={"job_id": job_id})
            except StorageUnavailable:
                logger.warning("a revoke found no database; it has to be repeated", extra={"job_id": job_id})

    def _cancel_job(self, job_id: str) -> None:
        with self._database.read() as connection:
            job = get_job(connection, job_id)
        if job.state.final:
            return
        if job.cancel_requested_at is None:
            with self._database.write() as connection:
                self._attempts.cancel(cancel(connection, self._database, [job_id]).stopping)
        else:
            self._attempts.cancel([(job_id, job.attempt)])

    def _terminate(self, job_id: str) -> None:
        self._attempts.hand_back([job_id])

    def _show_again(self, job_id: str) -> None:
        """Flower holds a job that ended for ended, unless it is told of a retry."""
        events = getattr(self._consumer, "event_dispatcher", None)
        if events is not None and events.enabled:
            events.send("task-retried", uuid=job_id, exception="", traceback="")
            events.send("task-started", uuid=job_id)

    def _on_ready(self, sender: Any = None, **_: Any) -> None:
        self._consumer = sender
        self._intake.attach(sender)
        logger.info("the card is open", extra={"models": list(self._handlers), "slots": self._identity.slots})

    def _on_stopping(self, **_: Any) -> None:
        """Celery stops taking messages and waits for the running jobs; this bounds the wait."""
        timer = threading.Timer(self._settings.shutdown_grace_s, self._attempts.hand_back_all)
        timer.daemon = True
        timer.start()

    def _leave_with_supervisor(self) -> None:
        # While a driver holds the GIL nobody renews the leases. Then the process has to end before
        # they run out, or the job that holds it would go from card to card and never be blamed.
        silent_s = max(self._settings.lease_s / 2, SILENT_LEAST_S)
        with self._pulse.watching("process", silent_s):
            while not _ended(sys.__stdin__):
                self._pulse.beat("process")
        logger.warning("the supervisor is gone; handing back")
        self._attempts.hand_back_all()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._settings.shutdown_grace_s)
        os._exit(1)  # a handler that never reaches a checkpoint must not keep the card

    def _close(self) -> None:
        self._attempts.hand_back_all()
        self._ledger.close()
        self._heartbeat.stop()
        self._publisher.close()
        if self._figures is not None:
            self._figures.close()
        for model, handler in self._handlers.items():
            try:
                handler.close()
            except Exception:
                logger.exception("a model could not be closed", extra={"model": model})
        self._station.close()
        self._examiner.close()
        self._database.close()


def _engine_limits(settings: Settings) -> EngineLimits:
    return EngineLimits(
        load=settings.watchdog_load_s,
        warm_up=settings.watchdog_warm_up_s,
        prefill=settings.watchdog_prefill_s,
        step=settings.watchdog_step_s,
        decode=settings.watchdog_decode_s,
    )


def _ended(pipe: TextIO | None) -> bool:
    """Wait a moment for the end of the supervisor's pipe."""
    if pipe is None:  # it was closed before we started
        return True
    readable, _, _ = select.select([pipe], [], [], BEAT_S)
    return bool(readable) and not os.read(pipe.fileno(), 4096)


if __name__ == "__main__":
    status = main()
    if status in (EXIT_CARD_FAILED, EXIT_CARD_SUSPECT):
        os._exit(status)  # a vendor's exit hook waits for the card, which may never answer
    sys.exit(status)
