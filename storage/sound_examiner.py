"""A process that looks into sound files, one after the other, with little memory and processor time for each.

Run by `examiner.py`, never imported. It may write no file and keeps nothing, so that a file that unpacks to
more than it should, or that crashes the decoder, ends a process in which nothing else happens.

Protocol: one JSON order a line on stdin, one JSON answer a line on stdout: what the file holds, or
`problem`, or `failed`. The process ends with its stdin, and now and then by itself.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .sound import UnusableSound, examine

MEMORY_BYTES = 256 * 1024**2
"""Beyond what the process has when it begins. A decoder takes some megabytes."""

CPU_LEAST_S = 30
CPU_PER_AUDIO_S = 0.05
"""A twentieth of real time: slow machines decode Opus, the most expensive of the formats, at 50 × it."""

FILES = 1000
"""After so many the process ends, with whatever its libraries have leaked."""


def cpu_limit_s(max_audio_s: float) -> int:
    """The processor time that one file may take."""
    return CPU_LEAST_S + int(CPU_PER_AUDIO_S * max_audio_s)


def main() -> None:
    """Answer orders until standard input ends."""
    import numpy as np  # noqa: F401 - before memory is limited
    import soundfile  # noqa: F401

    _limit()
    for _ in range(FILES):
        line = sys.stdin.buffer.readline()
        if not line:
            return
        order = json.loads(line)
        _allow_cpu(cpu_limit_s(order["max_audio_s"]))
        os.write(1, json.dumps(_answer(order)).encode() + b"\n")


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    try:
        return asdict(examine(Path(order["path"]), order["max_audio_s"]))
    except UnusableSound as problem:
        return {"problem": str(problem)}
    except MemoryError:
        return {"problem": "needs more memory to be decoded than a sound file may; encode it again"}
    except Exception as error:  # noqa: BLE001 - the other end is told; it is not the file's fault
        return {"failed": type(error).__name__}


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    room = pages * resource.getpagesize() + MEMORY_BYTES
    for kind, value in ((resource.RLIMIT_AS, room), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (value, value))
    # Whoever stops a whole group of processes would otherwise have a file blamed; the parent ends this one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _allow_cpu(seconds: int) -> None:
    """Let the process be killed when it has used so much more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1, hard))


if __name__ == "__main__":
    main()
