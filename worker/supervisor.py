"""The supervisor of a host: one child for each card, the watchdog, and a seat for the leader.

It never touches a device and imports no model. A child that dies is replaced, after a backoff; its
jobs go back to their queues at once, as suspects if it died by itself. A child that is stuck is
killed. A card that may be broken is asked for a known answer before it is used again. When the
supervisor dies, its children notice the closed pipe and leave.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ulid import ULID

from soundmill.models.device import Card
from soundmill.storage.broker import Broker
from soundmill.storage.database import Database
from soundmill.storage.errors import StorageError, StorageUnavailable
from soundmill.storage.queue import RESPONSIVE, Publisher, make_app
from soundmill.storage.rescue import rescue_worker
from soundmill.storage.settings import Settings

from .card import EXIT_FORSAKEN, EXIT_UNUSABLE
from .card_check import CardCheck
from .death import Death, Killed, cause_of
from .death import crashed as crashed_of
from .dispatcher import Dispatcher
from .executor import EXIT_CARD_FAILED, EXIT_CARD_SUSPECT
from .host_memory import OomWatch, own_bytes
from .housekeeper import Housekeeper
from .metrics.host import HostMeasures
from .metrics.shared import FiguresReader
from .pulse import PulseReader

logger = logging.getLogger(__name__)

BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.5, 60.0
HEALTHY_S = 60.0
LAST_WORDS_S = 1.0
KILL_AFTER_GRACE_S = 15.0
BROKER_EVERY_S = 1.0
STUCK_FOR_S = 2.0


@dataclass(slots=True)
class Child:
    """The process of one card, and what is known of its predecessors."""

    card: Card
    name: str
    pulse: PulseReader
    figures: FiguresReader
    process: subprocess.Popen[bytes] | None = None
    incarnation: str = ""
    started: float = 0.0
    start_again: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    stuck_since: float | None = None
    killed: Killed | None = None
    killed_before: bool = False
    suspect: bool = False
    check: CardCheck | None = None
    gave_up: bool = False


class Supervisor:
    """Starts, watches and ends the children of a host."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        database: Database,
        cards: Sequence[Card],
        models: Sequence[str],
        measures: HostMeasures | None = None,
    ) -> None:
        """Prepare one child for each card; nothing is started yet.

        Args:
            settings: Passed on to the children by their environment.
            broker: Restarted here when we own it.
            database: The migrated job table.
            cards: Distinct cards of this host.
            models: The ids of the models that every card serves.
            measures: Counts what happens to the children and what the dispatcher does.
        """
        self._measures = measures or HostMeasures()
        self._settings = settings
        self._broker = broker
        self._database = database
        self._models = tuple(models)
        self._host = socket.gethostname()
        self._children = [self._child_of(card) for card in cards]
        self._deaths: list[Death] = []
        self._oom_watch = OomWatch()
        self._broker_checked = 0.0
        self._publisher = Publisher(make_app(broker.url, RESPONSIVE), breaker_s=1.0)
        holder = f"{self._host}/{os.getpid()}/{ULID()}"
        self._dispatcher = Dispatcher(database, self._publisher, settings, models, holder, self._measures)
        self._housekeeper = Housekeeper(database, settings, lambda: self._dispatcher.leads)

    def _child_of(self, card: Card) -> Child:
        label = str(card).replace(":", "-")
        figures = self._measures.card(str(card))
        return Child(card=card, name=f"{label}@{self._host}", pulse=PulseReader(), figures=figures)

    def start(self) -> None:
        """Start the children and the dispatcher."""
        for child in self._children:
            self._start_child(child)
        self._dispatcher.start()
        self._housekeeper.start()

    def watch(self) -> bool:
        """Look after everything once; call it a few times a second.

        Returns:
            Whether any card is still served or about to be.
        """
        self._watch_broker()
        self._oom_watch.look()
        for child in self._children:
            self._watch_child(child)
        self._return_jobs_of_the_dead()
        return not all(child.gave_up for child in self._children)

    def stop(self) -> None:
        """Let the children finish or hand back what they do, then end them."""
        for child in self._children:
            _signal(child, signal.SIGTERM)
        until = time.monotonic() + self._settings.shutdown_grace_s + KILL_AFTER_GRACE_S
        for child in self._children:
            self._await_end(child, until)
        self._return_jobs_of_the_dead()
        self._housekeeper.stop()
        self._dispatcher.stop()
        self._publisher.close()
        for child in self._children:
            child.pulse.close()
            child.figures.close()
            if child.check is not None:
                child.check.close()

    def _await_end(self, child: Child, until: float) -> None:
        if child.process is None:
            return
        try:
            child.process.wait(timeout=max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            logger.warning("a card's process did not leave; killing it", extra={"worker": child.name})
            child.process.kill()
            child.process.wait()
        self._measures.ended(str(child.card), None)
        self._bury(child, crashed=False)

    # -- children ----------------------------------------------------------------------------------

    def _start_child(self, child: Child) -> None:
        child.incarnation = f"{child.name}#{ULID()}"
        child.started = time.monotonic()
        child.stuck_since = None
        child.killed = None
        child.pulse.reset()
        child.figures.turn_over()
        models = [part for model in self._models for part in ("--model", model)]
        command = [
            sys.executable, "-P", "-m", "soundmill.worker.card", "--card", str(child.card), "--name", child.name,
            "--incarnation", child.incarnation, "--host", self._host, "--pulse", str(child.pulse.descriptor), *models,
        ]  # fmt: skip
        descriptors = [child.pulse.descriptor]
        if self._settings.metrics_port is not None:
            command += ["--figures", str(child.figures.descriptor)]
            descriptors.append(child.figures.descriptor)
        try:
            child.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                pass_fds=descriptors,
                env=self._environment(child.card),
                # Ctrl-C at the terminal is for the supervisor, who then stops the children.
                start_new_session=True,
            )
        except OSError as error:  # no process or memory left: later there may be
            logger.error(
                "a card's process cannot be started", extra={"worker": child.name, "reason": str(error)}
            )
            self._start_later(child)
            return
        self._measures.started(str(child.card))
        logger.info("a card's process was started", extra={"worker": child.name, "pid": child.process.pid})

    def _environment(self, card: Card) -> dict[str, str]:
        environment = dict(os.environ)
        environment |= self._settings.environment() | {"SOUNDMILL_BROKER_URL": self._broker.url}
        return environment | card.environment(environment)

    def _watch_child(self, child: Child) -> None:
        if child.process is None:
            if not child.gave_up and time.monotonic() >= child.start_again and self._is_well(child):
                self._start_child(child)
            return
        status = child.process.poll()
        if status is not None:
            self._ended(child, status)
        elif self._is_stuck(child, child.process.pid):
            self._kill(child, Killed.STUCK)
        elif self._is_too_large(child.process.pid):
            self._kill(child, Killed.TOO_LARGE)

    def _is_well(self, child: Child) -> bool:
        """Whether the card may be used; a suspect one has to give a right answer first."""
        if not child.suspect:
            return True
        if child.check is None:
            try:
                child.check = CardCheck(child.card, self._environment(child.card))
            except OSError:
                self._start_later(child)
            return False
        answer = child.check.answer()
        if answer is None:
            return False
        child.check, child.suspect = None, not answer
        if not answer:
            logger.error(
                "a card gives no right answer; reset it, or take it out of the worker's cards",
                extra={"worker": child.name, "card": str(child.card)},
            )
            self._start_later(child)
        return answer

    def _is_stuck(self, child: Child, pid: int) -> bool:
        now = time.monotonic()
        if now <= child.pulse.stuck_at() or _is_stopped(pid):
            child.stuck_since = None
            return False
        # Somebody who stopped the process lets it go on with a pulse that is old: it gets a moment.
        child.stuck_since = child.stuck_since or now
        return now > child.stuck_since + STUCK_FOR_S

    def _is_too_large(self, pid: int) -> bool:
        limit_gb = self._settings.card_memory_gb
        return limit_gb is not None and own_bytes(pid) > limit_gb * 1e9

    def _kill(self, child: Child, why: Killed) -> None:
        logger.error("a card's process is killed", extra={"worker": child.name, "reason": why.value})
        child.killed = why
        _signal(child, signal.SIGABRT)  # faulthandler writes where every thread stands
        assert child.process is not None
        try:
            child.process.wait(timeout=LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()

    def _ended(self, child: Child, status: int) -> None:
        oom_killed = self._oom_watch.look()  # in any case, or an old kill would be taken for news
        crashed = child.killed is not None or crashed_of(status, oom_killed=oom_killed)
        logger.warning(
            "a card's process ended", extra={"worker": child.name, "status": status, "crashed": crashed}
        )
        self._measures.ended(str(child.card), _reason(status, child.killed, crashed=crashed))
        young = time.monotonic() - child.started < HEALTHY_S
        killed = status == -signal.SIGKILL and not crashed
        # Nobody says who sent a SIGKILL. One is an accident; a second one so soon may be a job's doing.
        suspects = killed and child.killed_before and young
        self._bury(child, crashed=crashed, suspects=suspects, cause=cause_of(status, child.killed))
        child.killed_before = killed
        # A driver that hangs looks like a job that does: the next process would wait for it, too.
        hung = child.killed == Killed.STUCK and child.card.has_driver
        child.suspect = child.suspect or hung or status == EXIT_CARD_SUSPECT
        if status == EXIT_UNUSABLE:
            child.gave_up = True
            return
        if not young:
            child.backoff_s = BACKOFF_FIRST_S
        self._start_later(child)

    def _start_later(self, child: Child) -> None:
        child.start_again = time.monotonic() + child.backoff_s
        child.backoff_s = min(2 * child.backoff_s, BACKOFF_MOST_S)

    def _bury(self, child: Child, *, crashed: bool, suspects: bool = False, cause: str = "") -> None:
        assert child.process is not None
        if child.process.stdin is not None:
            child.process.stdin.close()
        child.process = None
        self._deaths.append(Death(child.incarnation, crashed, suspects, cause))

    def _return_jobs_of_the_dead(self) -> None:
        while self._deaths:
            death = self._deaths[0]
            try:
                with self._database.write() as connection:
                    jobs = rescue_worker(
                        connection,
                        self._database,
                        worker=death.incarnation,
                        crashed=death.crashed,
                        suspects=death.suspects,
                        max_crashes=self._settings.max_crashes,
                        cause=death.cause,
                    )
            except StorageUnavailable:
                return  # the next round tries again; the reaper would find them, too
            if not jobs:
                self._deaths.pop(0)
            else:
                logger.warning("jobs of a dead process are available again", extra={"jobs": jobs})
                self._measures.rescued("crashed" if death.crashed else "killed", len(jobs))

    # -- the broker --------------------------------------------------------------------------------

    def _watch_broker(self) -> None:
        if time.monotonic() < self._broker_checked + BROKER_EVERY_S:
            return
        try:
            if self._broker.ensure_alive():
                self._measures.broker_restarted()
        except (StorageError, OSError) as error:
            logger.warning("the embedded broker could not be restarted", extra={"reason": str(error)})
        self._broker_checked = time.monotonic()


_REASONS = {
    0: "left",
    EXIT_CARD_FAILED: "card_failed",
    EXIT_CARD_SUSPECT: "card_suspect",
    EXIT_FORSAKEN: "forsaken",
    EXIT_UNUSABLE: "unusable",
    -signal.SIGINT: "left",
    -signal.SIGTERM: "left",
}


def _reason(status: int, killed: Killed | None, *, crashed: bool) -> str:
    """How a process ended, in a word for the metrics."""
    if killed is not None:
        return killed.name.lower()
    if status in _REASONS:
        return _REASONS[status]
    return "crashed" if crashed else "killed"


def _is_stopped(pid: int) -> bool:
    """Whether somebody stopped the process with SIGSTOP or a debugger."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")  # the name before it may hold anything


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process is not None and child.process.poll() is None:
        child.process.send_signal(number)
