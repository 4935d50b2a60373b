"""Flower beside the stack: always with a password, on loopback unless told otherwise.

It runs in a process of its own (`python -m soundmill.worker.flower`), which ends when the supervisor
that holds its standard input does, however that went.
"""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from soundmill.storage.settings import Settings

logger = logging.getLogger(__name__)

USER = "soundmill"
MAX_TASKS = 20_000  # about 5 KB each; the whole history is the job table's
BACKOFF_FIRST_S, BACKOFF_MOST_S = 1.0, 60.0
HEALTHY_S = 60.0


class Flower:
    """The process of Flower.

    Attributes:
        url: Where its pages are.
        password: Made anew at every start, unless the setting `flower_basic_auth` names one.
    """

    def __init__(self, settings: Settings, broker_url: str) -> None:
        self._settings = settings
        self._broker_url = broker_url
        self.url = f"http://{settings.flower_address}:{settings.flower_port}"
        given = settings.flower_basic_auth
        self.password = None if given else secrets.token_urlsafe(12)
        self._credentials = given or f"{USER}:{self.password}"
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_again = 0.0
        self._backoff_s = BACKOFF_FIRST_S

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._bury(self._process)

    def ensure_alive(self) -> None:
        """Start it again if it ended, after a backoff; it only watches, so nothing depends on it."""
        if self._process is not None and self._process.poll() is not None:
            logger.warning("Flower ended; it is started again", extra={"status": self._process.returncode})
            self._bury(self._process)
            if time.monotonic() > self._started + HEALTHY_S:
                self._backoff_s = BACKOFF_FIRST_S
            self._start_again = time.monotonic() + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_MOST_S)
        if self._process is None and time.monotonic() >= self._start_again:
            self._start()

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._process = None

    def _start(self) -> None:
        # The password travels in the environment: arguments can be read by every user of the host.
        environment = os.environ | self._settings.environment()
        environment |= {"SOUNDMILL_BROKER_URL": self._broker_url, "FLOWER_BASIC_AUTH": self._credentials}
        command = [
            sys.executable, "-P", "-m", "soundmill.worker.flower",
            f"--address={self._settings.flower_address}", f"--port={self._settings.flower_port}",
            f"--max_tasks={MAX_TASKS}", "--logging=warning",
        ]  # fmt: skip
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, start_new_session=True
        )


def main() -> None:
    """Run Flower with our application until standard input ends."""
    threading.Thread(target=_leave_with_supervisor, daemon=True).start()
    _challenge_api_calls()
    from celery.bin.celery import main as celery

    sys.argv[1:1] = ["-A", "soundmill.worker.app", "flower"]
    celery()


def _challenge_api_calls() -> None:
    """Let the calls behind the buttons ask for the password, as the pages do.

    A browser that knows it from a job's page sends it to another folder only when asked there. Flower
    just refuses such a call, so that Terminate would fail without a word.
    """
    from flower.api import BaseApiHandler

    write_error = BaseApiHandler.write_error

    def challenge(handler: Any, status_code: int, **details: Any) -> None:
        if status_code == 401:
            handler.set_header("WWW-Authenticate", 'Basic realm="flower"')
        write_error(handler, status_code, **details)

    BaseApiHandler.write_error = challenge


def _leave_with_supervisor() -> None:
    while sys.__stdin__ is not None and os.read(sys.__stdin__.fileno(), 4096):
        pass
    os._exit(0)  # it keeps nothing that would have to be written


if __name__ == "__main__":
    main()
