"""The supervisor's judgement; `test_faults.py` watches it at work."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soundmill.models.device import Card
from soundmill.storage.broker import Broker
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.settings import Settings
from soundmill.worker import host_memory
from soundmill.worker import supervisor as module
from soundmill.worker.card import EXIT_FORSAKEN, EXIT_UNUSABLE
from soundmill.worker.death import Killed, cause_of
from soundmill.worker.death import crashed as crashed_of
from soundmill.worker.executor import EXIT_CARD_FAILED, EXIT_CARD_SUSPECT
from soundmill.worker.host_memory import OomWatch, own_bytes
from soundmill.worker.supervisor import BACKOFF_MOST_S, Child, Supervisor, _is_stopped

from ..storage.jobs import change, see, submit, take
from .running import until


@pytest.mark.parametrize(
    ("status", "crashed"),
    [
        (0, False),
        (-signal.SIGTERM, False),
        (-signal.SIGINT, False),
        (-signal.SIGKILL, False),
        (EXIT_UNUSABLE, False),
        (EXIT_FORSAKEN, False),
        (EXIT_CARD_FAILED, True),
        (EXIT_CARD_SUSPECT, True),
        (1, True),
        (-signal.SIGSEGV, True),
        (-signal.SIGABRT, True),
        (-signal.SIGBUS, True),
    ],
)
def test_a_process_crashed_if_its_jobs_can_have_caused_the_end(status: int, crashed: bool) -> None:
    assert crashed_of(status, oom_killed=False) is crashed


def test_a_kill_for_want_of_memory_is_a_crash() -> None:
    assert crashed_of(-signal.SIGKILL, oom_killed=True)
    assert not crashed_of(0, oom_killed=True)


def test_the_kernels_counter_of_oom_kills_is_watched_and_forgotten_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("nr_free_pages 7\noom_kill 3\n")
    watch = OomWatch(counter)
    assert not watch.look(), "what happened before we came is no news"
    counter.write_text("nr_free_pages 7\noom_kill 4\n")
    assert watch.look()
    assert watch.look()
    monkeypatch.setattr(host_memory, "OOM_KILL_S", 0.0)
    assert not watch.look()


def test_a_system_without_that_counter_has_no_oom_kills(tmp_path: Path) -> None:
    assert not OomWatch(tmp_path / "missing").look()


def test_a_stopped_process_is_told_from_a_running_one() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert not _is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        until(lambda: _is_stopped(process.pid), 10)
    finally:
        process.kill()
        process.wait()
    assert not _is_stopped(process.pid)


class Pretender(Supervisor):
    """A supervisor whose children are whatever command the test says."""

    command = "import sys; sys.exit(0)"

    def _start_child(self, child: Child) -> None:
        child.incarnation = f"{child.name}#test"
        child.started = time.monotonic()
        child.killed = None
        child.process = subprocess.Popen([sys.executable, "-c", self.command], stdin=subprocess.PIPE)


@pytest.fixture
def pretender(sqlite: Database, tmp_path: Path) -> Iterator[Pretender]:
    settings = Settings(
        state_dir=tmp_path / "state", database_url=f"sqlite:///{sqlite.url.database}", broker_url="redis://127.0.0.1:1",
        shutdown_grace_s=1.0, max_crashes=1,
    )  # fmt: skip
    supervisor = Pretender(settings, Broker("redis://127.0.0.1:1"), sqlite, [Card("cpu", 0)], ["espeak-ng"])
    yield supervisor
    supervisor.stop()


def watch_until(supervisor: Supervisor, holds: Any) -> None:
    def look() -> bool:
        supervisor.watch()
        return bool(holds())

    until(look, 30)


def test_a_child_that_can_serve_nothing_is_given_up(pretender: Pretender) -> None:
    pretender.command = f"import sys; sys.exit({EXIT_UNUSABLE})"
    until(lambda: not pretender.watch(), 30)
    assert pretender._children[0].gave_up


def test_a_child_that_keeps_ending_is_started_after_a_backoff_that_doubles(
    pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = pretender._children[0]
    backoffs = []
    for _ in range(9):
        pretender._start_child(child)
        assert child.process is not None
        child.process.wait()
        before = time.monotonic()
        pretender.watch()
        backoffs.append(round(child.start_again - before, 1))
    assert backoffs[:4] == [0.5, 1.0, 2.0, 4.0]
    assert backoffs[-1] == BACKOFF_MOST_S
    monkeypatch.setattr(module, "HEALTHY_S", 0.0)
    pretender._start_child(child)
    assert child.process is not None
    child.process.wait()
    pretender.watch()
    assert child.start_again - time.monotonic() <= 0.5


def test_a_child_that_cannot_be_started_is_tried_again(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no memory left")

    settings = Settings(state_dir=tmp_path / "state", broker_url="redis://127.0.0.1:1")
    supervisor = Supervisor(settings, Broker("redis://127.0.0.1:1"), sqlite, [Card("cpu", 0)], ["espeak-ng"])
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        assert supervisor.watch()
    assert supervisor._children[0].process is None
    assert supervisor._children[0].start_again > time.monotonic()
    supervisor.stop()


class Answers:
    """Checks of a card that answer what they are told to, after one look."""

    def __init__(self, *answers: bool) -> None:
        self.answers, self.asked, self.looks = list(answers), 0, 0

    def __call__(self, card: Card, environment: Any) -> Answers:
        assert environment["SOUNDMILL_BROKER_URL"]
        self.asked += 1
        return self

    def answer(self) -> bool | None:
        self.looks += 1
        return None if self.looks % 2 else self.answers.pop(0)

    def close(self) -> None:
        pass


def test_a_suspect_card_has_to_answer_before_it_is_used_again(
    pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(False, True)
    monkeypatch.setattr(module, "CardCheck", answers)
    monkeypatch.setattr(module, "BACKOFF_MOST_S", 0.2)
    child = pretender._children[0]
    child.backoff_s = 0.1
    pretender.command = f"import sys; sys.exit({EXIT_CARD_SUSPECT})"
    watch_until(pretender, lambda: child.suspect)
    pretender.command = "import time; time.sleep(60)"
    watch_until(pretender, lambda: answers.asked == 2)
    assert (child.process, child.suspect) == (None, True)
    watch_until(pretender, lambda: child.process is not None)
    assert (child.suspect, child.check) == (False, None)
    assert answers.answers == []


@pytest.mark.parametrize("has_driver", [True, False])
def test_a_card_whose_process_got_stuck_is_asked_if_it_has_a_driver_that_may_hang(
    pretender: Pretender, monkeypatch: pytest.MonkeyPatch, has_driver: bool
) -> None:
    answers = Answers(True)
    monkeypatch.setattr(module, "CardCheck", answers)
    monkeypatch.setattr(module, "STUCK_FOR_S", 0.0)
    monkeypatch.setattr(Card, "has_driver", has_driver)
    pretender.command = "import time; time.sleep(60)"
    child = pretender._children[0]
    child.pulse.close()
    child.pulse = Still()  # type: ignore[assignment]
    pretender._start_child(child)
    first = child.process
    watch_until(pretender, lambda: child.process not in (first, None))
    assert answers.asked == int(has_driver)
    assert not child.suspect
    child.pulse.reset()


def test_a_job_whose_process_the_kernel_kills_for_want_of_memory_is_charged_and_told(
    pretender: Pretender, sqlite: Database, tmp_path: Path
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("oom_kill 3\n")
    pretender._oom_watch = OomWatch(counter)
    id_ = submit(sqlite)
    child = pretender._children[0]
    pretender.command = f"import os, signal; open({str(counter)!r}, 'w').write('oom_kill 4'); os.kill(os.getpid(), signal.SIGKILL)"
    pretender._start_child(child)
    take(sqlite, id_, worker=child.incarnation)
    change(sqlite, id_, alone=True)
    watch_until(pretender, lambda: see(sqlite, id_).state.final)
    job = see(sqlite, id_)
    assert (job.error_code, job.crashes) == ("worker_crashed", 1)
    assert "the kernel killed it for want of memory" in (job.error or "")


def test_a_process_is_weighed_by_what_it_has_to_itself(tmp_path: Path) -> None:
    hoarder = "import time; hoard = b'x' * 100_000_000; print(len(hoard), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hoarder], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert 100e6 < own_bytes(process.pid) < 200e6
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert own_bytes(process.pid, tmp_path) == 0


@pytest.mark.parametrize(
    ("status", "killed", "words"),
    [
        (-signal.SIGSEGV, None, "it died of SIGSEGV"),
        (-signal.SIGKILL, None, "the kernel killed it for want of memory"),
        (-signal.SIGABRT, Killed.STUCK, "it made no step for longer than the watchdog allows"),
        (-signal.SIGKILL, Killed.TOO_LARGE, "it took more memory than card_memory_gb allows"),
        (EXIT_CARD_FAILED, None, "the card failed in it"),
        (3, None, "it ended with status 3"),
    ],
)
def test_how_a_process_ended_is_told_in_words(status: int, killed: Killed | None, words: str) -> None:
    assert cause_of(status, killed) == words


def test_a_card_that_failed_otherwise_is_used_again_unasked(
    pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers()
    monkeypatch.setattr(module, "CardCheck", answers)
    pretender.command = f"import sys; sys.exit({EXIT_CARD_FAILED})"
    watch_until(pretender, lambda: pretender._children[0].backoff_s > 1)
    assert answers.asked == 0


def test_the_jobs_of_a_dead_child_are_available_at_once(pretender: Pretender, sqlite: Database) -> None:
    id_ = submit(sqlite)
    pretender.command = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    pretender._start_child(pretender._children[0])
    take(sqlite, id_, worker=pretender._children[0].incarnation)
    watch_until(pretender, lambda: see(sqlite, id_).state == State.AVAILABLE)
    assert see(sqlite, id_).crashes == 0


def test_the_jobs_of_a_dead_child_wait_for_the_database(
    pretender: Pretender, sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    id_ = submit(sqlite)
    pretender._start_child(pretender._children[0])
    take(sqlite, id_, worker=pretender._children[0].incarnation)
    connection = sqlite3.connect(str(sqlite.url.database), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    watch_until(pretender, lambda: pretender._deaths)
    pretender.watch()
    connection.rollback()
    connection.close()
    watch_until(pretender, lambda: see(sqlite, id_).state == State.AVAILABLE)


class Still:
    """A pulse that stopped."""

    def __init__(self) -> None:
        self.at = 0.0

    def stuck_at(self) -> float:
        return self.at

    def reset(self) -> None:
        self.at = math.inf

    def close(self) -> None:
        pass


def test_a_stuck_child_is_killed_after_a_second_look_and_a_stopped_one_is_left_alone(
    pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STUCK_FOR_S", 0.5)
    pretender.command = "import time; time.sleep(60)"
    child = pretender._children[0]
    child.pulse.close()
    child.pulse = Still()  # type: ignore[assignment]
    pretender._start_child(child)
    process = child.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    until(lambda: _is_stopped(process.pid), 10)
    for _ in range(8):
        pretender.watch()
        time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    watch_until(pretender, lambda: process.poll() is not None)
    assert child.killed == Killed.STUCK
    assert process.returncode in (-signal.SIGABRT, -signal.SIGKILL)


def test_a_stop_ends_a_child_that_will_not_leave(
    pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KILL_AFTER_GRACE_S", 0.5)
    pretender.command = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    pretender._start_child(pretender._children[0])
    process = pretender._children[0].process
    assert process is not None
    time.sleep(0.5)
    pretender.stop()
    assert process.returncode in (-signal.SIGKILL, -signal.SIGTERM)


def test_a_child_is_told_its_card_and_the_settings(pretender: Pretender) -> None:
    environment = pretender._environment(Card("cuda", 2))
    assert environment["CUDA_VISIBLE_DEVICES"] == "2"
    assert environment["SOUNDMILL_BROKER_URL"] == "redis://127.0.0.1:1"
    assert environment["SOUNDMILL_SHUTDOWN_GRACE_S"] == "1.0"
    assert environment["PATH"] == os.environ["PATH"]
