"""The process between the owner of the embedded broker and its server.

It exists because nobody can clean up after a `kill -9` of itself. Its standard input is a pipe whose
other end only the owner holds: the end of file says that the owner is gone, however it went. If the
guard itself is killed, the kernel kills the server (PR_SET_PDEATHSIG).

It runs as a plain script, outside the package (`python -I -S broker_guard.py`): it imports the
standard library only and starts in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys

STOP_WAIT_S = 5.0

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_OWNER = 0


def main(arguments: list[str]) -> int:
    """Run the server until the owner goes, the server ends or SIGTERM arrives.

    Args:
        arguments: The inherited descriptor of the server's lock, the program, its configuration.
    """
    lock, program, configuration = arguments
    wake = _wake_on_signals()
    server = _start(program, configuration, int(lock))
    while server.poll() is None:
        readable, _, _ = select.select([_OWNER, wake], [], [])
        # The signals are their numbers. A server that is only frozen sends SIGCHLD, too, and is let be.
        if _OWNER in readable or signal.SIGTERM in os.read(wake, 64):
            break
    return _stop(server)


def _wake_on_signals() -> int:
    """Make SIGCHLD and SIGTERM readable; Ctrl-C and a closed terminal are the owner's business."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return reading


def _start(program: str, configuration: str, lock: int) -> subprocess.Popen[bytes]:
    guard = os.getpid()
    # Loaded here: between fork and exec nothing should be opened or allocated.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def die_with_the_guard() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # the guard was killed before the line above
            os._exit(1)

    # The server inherits the lock and so holds it exactly as long as it lives.
    return subprocess.Popen(
        [program, configuration],
        stdin=subprocess.DEVNULL,
        pass_fds=(lock,),
        preexec_fn=die_with_the_guard,  # noqa: PLW1509 - the guard has one thread
    )


def _stop(server: subprocess.Popen[bytes]) -> int:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            server.kill()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
