"""How the process of a card ended, and what that says about the jobs it held."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum

from .card import EXIT_FORSAKEN, EXIT_UNUSABLE
from .executor import EXIT_CARD_FAILED, EXIT_CARD_SUSPECT


class Killed(Enum):
    """Why the supervisor itself killed a process; the value is what whoever submitted the job is told."""

    STUCK = "it made no step for longer than the watchdog allows"
    TOO_LARGE = "it took more memory than card_memory_gb allows"


@dataclass(frozen=True, slots=True)
class Death:
    """A process that died, until its jobs are returned.

    Attributes:
        incarnation: Which process it was.
        crashed: Whether a job can have caused it.
        suspects: Whether what it held are suspects although it did not end by itself.
        cause: How it ended, as part of a sentence.
    """

    incarnation: str
    crashed: bool
    suspects: bool = False
    cause: str = ""


def crashed(status: int, *, oom_killed: bool) -> bool:
    """Whether a process ended in a way that its jobs can cause.

    SIGKILL comes from people and deploys, unless the kernel sent it for want of memory.
    """
    if status == -signal.SIGKILL:
        return oom_killed
    return status not in (0, -signal.SIGTERM, -signal.SIGINT, EXIT_UNUSABLE, EXIT_FORSAKEN)


def cause_of(status: int, killed: Killed | None) -> str:
    """How a process ended, as part of a sentence.

    Args:
        status: Its exit status; of a signal the negative number.
        killed: Why the supervisor killed it, if it did.
    """
    if killed is not None:
        return killed.value
    if status == -signal.SIGKILL:
        return "the kernel killed it for want of memory"
    if status < 0:
        return f"it died of {signal.Signals(-status).name}"
    if status in (EXIT_CARD_FAILED, EXIT_CARD_SUSPECT):
        return "the card failed in it"
    return f"it ended with status {status}"
