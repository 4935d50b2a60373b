"""Looks into sound files in processes of their own with limits, so that none can harm the one that asks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import StorageUnavailable
from .sound import Sound, UnusableSound
from .sound_examiner import cpu_limit_s

MOST = 4
"""So many files are looked into at once."""

_COMMAND = (sys.executable, "-P", "-m", "soundmill.storage.sound_examiner")
# No password and no key gets there: only what is needed to find Python and its libraries.
_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONUSERBASE",
)
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

_POLL_S = 0.2
_START_S = 60.0
_WALL_PER_CPU = 10.0  # a busy machine gives a process a tenth of a processor
_LONGEST_ANSWER = 65_536

_GONE = "the process that looks at audio ended; try again"
_CRASHES = "crashes the decoder; encode it again"
_CRASH_SIGNALS = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP,
    signal.SIGXFSZ,
}  # fmt: skip
_EXPENSIVE = "takes more time or memory to be decoded than a sound file may; encode it again"


class Examiner:
    """A few processes, started when they are first needed. Safe between threads and over forks."""

    def __init__(self, max_audio_s: float) -> None:
        """Prepare; nothing is started yet.

        Args:
            max_audio_s: The longest audio that is taken.
        """
        self._max_audio_s = max_audio_s
        self._wall_s = _START_S + _WALL_PER_CPU * cpu_limit_s(max_audio_s)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._room = threading.BoundedSemaphore(min(MOST, os.cpu_count() or 1))
        self._idle: list[_Program] = []
        # Lists are safe between threads; at the end of this object, or of the interpreter, none is left.
        self._end = weakref.finalize(self, _end_all, self._idle, self._pid)

    def examine(self, path: Path, checkpoint: Callable[[], None] = lambda: None) -> Sound:
        """Decode a file to its end.

        Args:
            path: The file.
            checkpoint: Called several times a second; what it raises ends the decoding, and is raised.

        Raises:
            UnusableSound: It cannot be used as audio, or nobody can decode it within the limits.
            StorageUnavailable: There was no process to do it in.
        """
        if self._pid != os.getpid():
            self._end.detach()
            _end_all(self._idle, self._pid)
            self._reset()
        while not self._room.acquire(timeout=_POLL_S):
            checkpoint()
        try:
            return self._examine(path, checkpoint)
        finally:
            self._room.release()

    def close(self) -> None:
        """End the processes; another file starts new ones."""
        _end_all(self._idle, self._pid)

    def _examine(self, path: Path, checkpoint: Callable[[], None]) -> Sound:
        order = {"path": str(path.absolute()), "max_audio_s": self._max_audio_s}
        program = self._ready()
        try:
            answer = program.ask(order, self._wall_s, checkpoint)
            outcome = _outcome_of(answer)
        except BaseException:
            program.end()
            raise
        self._idle.append(program)
        if isinstance(outcome, UnusableSound):
            raise outcome
        return outcome

    def _ready(self) -> _Program:
        """A process that runs: they end by themselves after many files, and others may end them."""
        with suppress(IndexError):
            while True:
                program = self._idle.pop()
                if program.alive:
                    return program
                program.end()
        return _Program()


class _Program:
    """One process that looks into files, one after the other."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            self._process = subprocess.Popen(
                _COMMAND,
                env=environment | _ONE_THREAD,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # decoders complain there of what is in the file
                start_new_session=True,  # Ctrl-C at a terminal is for the parent
            )
        except OSError as error:
            raise StorageUnavailable(f"no process could be started to look at audio: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, order: dict[str, Any], wall_s: float, checkpoint: Callable[[], None]) -> Any:
        """Give an order and wait for what the process says, or for its end.

        Raises:
            UnusableSound: The file ended it, or took too long.
            StorageUnavailable: It was ended by somebody.
        """
        try:
            self._orders.write(json.dumps(order).encode() + b"\n")
            self._orders.flush()
        except OSError as error:
            raise StorageUnavailable(_GONE) from error
        until, line = time.monotonic() + wall_s, b""
        while not line.endswith(b"\n"):
            if self._poll.poll(1000 * _POLL_S):
                part = os.read(self._answers.fileno(), 4096)
                if not part:
                    raise self._last_words()
                line += part
            if time.monotonic() > until or len(line) > _LONGEST_ANSWER:
                raise UnusableSound(_EXPENSIVE)
            checkpoint()
        return json.loads(line)

    def _last_words(self) -> Exception:
        status = -self._process.wait()
        if status == signal.SIGXCPU:
            return UnusableSound(_EXPENSIVE)
        # A file cannot take so much memory that the system kills the process; somebody else did.
        return UnusableSound(_CRASHES) if status in _CRASH_SIGNALS else StorageUnavailable(_GONE)

    def end(self, *, ours: bool = True) -> None:
        """Kill it; `ours` is false in a process that was forked from its parent."""
        if ours:
            self._process.kill()
            self._process.wait()
        else:
            self._process.returncode = 0  # it is no child of this process, which cannot wait for it
        with suppress(OSError):
            self._orders.close()
        self._answers.close()


def _end_all(programs: list[_Program], pid: int) -> None:
    while programs:
        programs.pop().end(ours=os.getpid() == pid)


def _outcome_of(answer: Any) -> Sound | UnusableSound:
    # What a decoder made of a stranger's file may have taken over is not trusted here.
    match answer:
        case {"problem": str(problem)}:
            return UnusableSound(problem)
        case {"failed": str(reason)}:
            raise StorageUnavailable(f"audio could not be looked at ({reason[:64]}); try again")
        case {"frames": int(), "sample_rate": int(), "channels": int(), "media_type": str()} if (
            len(answer) == 4
        ):
            return Sound(**answer)
        case _:
            raise UnusableSound(_CRASHES)
