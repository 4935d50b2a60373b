"""Helper processes for work that would hold up the thread that steps the card.

They are programs of their own, neither forked from a process that has a device open nor made to import
its main module. Each reads its orders from a socket, and
leaves when the other end closes, so none outlives its parent, however that ends.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from .errors import HelperDied, ModelError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST = 4
LEAVE_S = 2.0
PROGRAM = f"import sys; from {__name__} import main; sys.exit(main())"


class Helpers:
    """A pool of helper processes, each started when it is first needed; safe between threads."""

    def __init__(self, count: int | None = None) -> None:
        """Prepare; nothing is started yet.

        Args:
            count: How many processes at most; `None` leaves a processor to the parent.
        """
        count = count or max(1, min(MOST, (os.cpu_count() or 1) - 1))
        self._modules: tuple[str, ...] = ()
        self._closed = False
        # Last in, first out: one that is warm is taken before one that does not run yet.
        self._idle: queue.LifoQueue[_Helper] = queue.LifoQueue()
        self._all = [_Helper() for _ in range(count)]
        for helper in self._all:
            self._idle.put(helper)

    def warm(self, modules: Sequence[str]) -> None:
        """Start all helpers, and let them import these modules while the caller goes on."""
        self._modules = tuple(dict.fromkeys((*self._modules, *modules)))
        for helper in self._all:
            helper.warm(self._modules)

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """Call a function of a module, with arguments that can be pickled, in a helper.

        Waits for a free one, and for the result. Whatever the function raises is raised here.

        Raises:
            HelperDied: The process ended; the next call finds another one.
        """
        helper = self._idle.get()
        try:
            if self._closed:
                raise HelperDied("the helpers of this process were closed")
            done, result = helper.call(self._modules, work, args)
        finally:
            self._idle.put(helper)
        if not done:
            raise result
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """End all helpers; one at work is not waited for."""
        self._closed = True
        for helper in self._all:
            helper.close()


class _Helper:
    """The parent's end of one helper."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None

    def warm(self, modules: Sequence[str]) -> None:
        with self._lock:
            self._ready(modules)

    def call(
        self, modules: Sequence[str], work: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[bool, Any]:
        with self._lock:
            connection = self._ready(modules)
        try:
            connection.send((work, args))
            answer: tuple[bool, Any] = connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise HelperDied("a helper process ended while it worked; perhaps for want of memory") from error
        return answer

    def _ready(self, modules: Sequence[str]) -> Connection[Any, Any]:
        """The connection to a running process."""
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return self._connection
        self._drop()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, str(theirs.fileno()), *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Several at once share the processors with the thread that steps the card.
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C at a terminal is for the parent
            )
        self._connection = Connection(ours.detach())
        return self._connection

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._connection = self._process = None


def serve(connection: Connection[Any, Any]) -> None:
    """Do what the other end asks for until it closes."""
    while True:
        try:
            work, args = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = (True, work(*args))
        except Exception as error:  # noqa: BLE001 - it is raised at the other end
            answer = (False, error)
        try:
            connection.send(answer)
        except (EOFError, OSError):
            return
        except Exception as error:  # noqa: BLE001 - what cannot be pickled is told as text
            connection.send((False, ModelError(f"a helper's answer cannot be sent: {error}")))


def main() -> int:
    """Run a helper: the socket's number, then modules to import."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    for module in sys.argv[2:]:
        import_module(module)
    serve(connection)
    return 0
