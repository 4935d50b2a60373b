"""Who may use the card together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from soundmill.worker.solo import SoloGate

from .running import until

Enter = Callable[[Callable[[], None]], AbstractContextManager[None]]


def nothing() -> None:
    """No reason to give up."""


class Guest:
    """A thread that enters, stays until it is let go, and leaves."""

    def __init__(self, enter: Enter, check: Callable[[], None] = nothing) -> None:
        self.inside = threading.Event()
        self.let_go = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._visit, args=(enter, check), daemon=True)
        self._thread.start()

    def _visit(self, enter: Enter, check: Callable[[], None]) -> None:
        try:
            with enter(check):
                self.inside.set()
                self.let_go.wait(30)
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            self.error = error

    @property
    def waits(self) -> bool:
        return not self.inside.wait(0.4)

    def leave(self) -> None:
        self.let_go.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_ordinary_jobs_run_side_by_side() -> None:
    gate = SoloGate()
    guests = [Guest(gate.together) for _ in range(5)]
    assert all(guest.inside.wait(5) for guest in guests)
    for guest in guests:
        guest.leave()


def test_a_suspect_waits_for_all_and_keeps_everybody_out() -> None:
    gate = SoloGate()
    ordinary = Guest(gate.together)
    assert ordinary.inside.wait(5)
    suspect = Guest(gate.alone)
    assert suspect.waits
    newcomer = Guest(gate.together)
    assert newcomer.waits, "a waiting suspect would never get the card otherwise"
    ordinary.leave()
    assert suspect.inside.wait(5)
    assert newcomer.waits
    suspect.leave()
    assert newcomer.inside.wait(5)
    newcomer.leave()


def test_suspects_run_one_after_the_other() -> None:
    gate = SoloGate()
    together: list[int] = []
    inside = 0
    lock = threading.Lock()

    def visit() -> None:
        nonlocal inside
        with gate.alone(nothing):
            with lock:
                inside += 1
                together.append(inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=visit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert together == [1] * 6


class GaveUp(Exception):
    """The job was cancelled while it waited."""


@pytest.mark.parametrize("way", ["together", "alone"])
def test_one_who_gives_up_while_waiting_blocks_nobody(way: str) -> None:
    gate = SoloGate()
    give_up = threading.Event()

    def check() -> None:
        if give_up.is_set():
            raise GaveUp

    inside = Guest(gate.alone)
    assert inside.inside.wait(5)
    waiting = Guest(getattr(gate, way), check)
    assert waiting.waits
    give_up.set()
    until(lambda: isinstance(waiting.error, GaveUp), 10)
    inside.leave()
    after = Guest(gate.together)
    assert after.inside.wait(5)
    after.leave()


def test_an_error_inside_opens_the_gate_again() -> None:
    gate = SoloGate()
    for enter in (gate.alone, gate.together):
        with pytest.raises(RuntimeError), enter(nothing):
            raise RuntimeError
    guest = Guest(gate.alone)
    assert guest.inside.wait(5)
    guest.leave()
