"""One worker of a run: a supervisor in a process of its own and the process of its card."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil


class Seat:
    """A card, and who works on it.

    Attributes:
        card: Such as `cpu:0`.
        supervisor: Its process, once started.
    """

    def __init__(self, card: str, models: tuple[str, ...], environment: Mapping[str, str], log: Path) -> None:
        self.card = card
        self._environment = environment
        self._log = log
        self._command = [sys.executable, "-m", "soundmill.worker", "up", "--ephemeral", "--no-flower"]
        self._command += ["--card", card, *(word for model in models for word in ("--model", model))]
        self.supervisor: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the supervisor."""
        with self._log.open("ab") as log:
            self.supervisor = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self.supervisor is not None
        return self.supervisor.pid

    @property
    def runs(self) -> bool:
        """Whether the supervisor is there."""
        return self.supervisor is not None and self.supervisor.poll() is None

    def worker(self) -> psutil.Process | None:
        """The process of the card, if there is one just now."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                if "soundmill.worker.card" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    return child
        return None

    def bury(self) -> None:
        """Forget a supervisor that ended."""
        assert self.supervisor is not None
        self.supervisor.wait()
        assert self.supervisor.stdin is not None
        with contextlib.suppress(OSError):
            self.supervisor.stdin.close()


def incarnation_of(worker: psutil.Process) -> str:
    """The name under which the process of a card holds its leases; empty if it is gone."""
    with contextlib.suppress(psutil.Error, ValueError, IndexError):
        words = worker.cmdline()
        return words[words.index("--incarnation") + 1]
    return ""
