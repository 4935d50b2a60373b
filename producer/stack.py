"""The services behind one command: those that run, or a broker and a worker for its own use.

What is started is `python -m soundmill.worker up --ephemeral`: it ends when its standard input does,
which the system closes even if this process is killed, and everything that it started ends with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from soundmill.storage.broker import running_broker_url
from soundmill.storage.errors import StorageError
from soundmill.storage.listing import served_models
from soundmill.storage.settings import PREFIX, masked

from .errors import StackFailed

if TYPE_CHECKING:
    from soundmill.storage.database import Database
    from soundmill.storage.settings import Settings

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "soundmill.worker", "up", "--no-flower", "--ephemeral")
START_LIMIT_S = 90.0
"""How long the services may take to start, beside the loading of the models."""

LOOK_EVERY_S = 0.05
TEND_EVERY_S = 1.0
STARTS = 2
WORDS_KEPT = 12
TERMINATE_AFTER_S, KILL_AFTER_S = 10.0, 5.0


class Stack:
    """Sees to it that live workers serve some models as long as the context lasts."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        models: Collection[str],
        tell: Callable[[str], None],
        *,
        card: str = "cpu",
    ) -> None:
        """Prepare; nothing is started before the context is entered.

        Args:
            settings: Also of what is started.
            database: The migrated job table of these settings.
            models: The models that are wanted.
            tell: Called with a sentence when something is started.
            card: Where a worker that is started runs; `auto` is the best card of this host.
        """
        self._settings = settings
        self._database = database
        self._models = frozenset(models)
        self._tell = tell
        self._command = [*COMMAND, "--cards", card]
        for model in sorted(self._models):
            self._command += ["--model", model]
        self._process: subprocess.Popen[bytes] | None = None
        self._words: deque[str] = deque(maxlen=WORDS_KEPT)
        self._starts = 0
        self._tended_at = 0.0

    @property
    def started(self) -> bool:
        """Whether it had to start services of its own."""
        return self._starts > 0

    def __enter__(self) -> Self:
        try:
            self._require_given_broker()
            if not self._served():
                self._start()
                self._await_served()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def tend(self) -> None:
        """Start services if those that were there have gone; to be called while waiting.

        Raises:
            StackFailed: What was started ended, and ended again.
        """
        if time.monotonic() < self._tended_at + TEND_EVERY_S:
            return
        self._tended_at = time.monotonic()
        with contextlib.suppress(StorageError):
            if self._process is not None and self._process.poll() is None:
                return
            if not self._served():
                self._start()

    def stop(self) -> None:
        """End what was started, and wait until it has."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        grace_s = self._settings.shutdown_grace_s + TERMINATE_AFTER_S
        for limit_s, harder in ((grace_s, process.terminate), (KILL_AFTER_S, process.kill)):
            try:
                process.wait(limit_s)
                return
            except subprocess.TimeoutExpired:
                logger.warning("the services of this command do not end; forcing them")
                harder()
        process.wait()

    def _require_given_broker(self) -> None:
        """A broker that somebody else runs is not ours to start: say at once that it is down."""
        if (url := self._settings.broker_url) is None:
            return
        from soundmill.storage.queue import RESPONSIVE, Publisher, make_app

        publisher = Publisher(make_app(url, RESPONSIVE))
        try:
            publisher.lengths(self._models)
        except StorageError as error:
            raise StackFailed(
                f"the broker at {masked(url)} does not answer; start it, or unset broker_url "
                "to have one started for this command"
            ) from error
        finally:
            publisher.close()

    def _served(self) -> bool:
        if running_broker_url(self._settings) is None:
            return False
        with self._database.read() as connection:
            return self._models <= served_models(connection, self._database)

    def _start(self) -> None:
        if self._starts >= STARTS:
            raise StackFailed(f"the broker and the worker for this command ended: {self._last_words()}")
        self._starts += 1
        self._tell("nothing is running here: starting a broker and a worker for this command")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=kept | self._settings.environment(),
            # Ctrl-C at the terminal is for this process, which stops the other when it is done.
            start_new_session=True,
        )
        assert self._process.stderr is not None
        threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True).start()

    def _listen(self, stderr: IO[bytes]) -> None:
        with stderr:
            for line in stderr:
                text = line.decode(errors="replace").rstrip()
                self._words.append(text)
                logger.debug("from the services of this command", extra={"line": text})

    def _await_served(self) -> None:
        limit_s = START_LIMIT_S + self._settings.watchdog_load_s
        until = time.monotonic() + limit_s
        while not self._served():
            if self._process is not None and (code := self._process.poll()) is not None:
                raise StackFailed(
                    f"the broker and the worker for this command ended with code {code}: {self._last_words()}"
                )
            if time.monotonic() > until:
                raise StackFailed(
                    f"no worker serves {', '.join(sorted(self._models))} after {limit_s:g} s: "
                    f"{self._last_words()}"
                )
            time.sleep(LOOK_EVERY_S)

    def _last_words(self) -> str:
        time.sleep(0.1)  # the last of them may still be in the pipe
        return " | ".join(self._words) or "it said nothing; `soundmill up` may say more"
