"""What can go wrong in front of the queue, beyond what storage reports.

    ProducerError
    ├── WaitTimedOut   some of the jobs were not final in time
    ├── NotSaved       a file could not be written where it was wanted
    ├── NotDrawn       there is nothing to draw a picture of, or nothing to draw it with
    └── StackFailed    the broker or the worker that a command started for itself did not come up

A job that is refused is a `soundmill.storage.errors.SubmitRefused`, with the field at fault.
"""

from __future__ import annotations


class ProducerError(Exception):
    """The base of all; the message is a sentence that says what to do."""


class WaitTimedOut(ProducerError, TimeoutError):
    """The time was up before all jobs were final. They go on; wait again, or cancel them.

    Attributes:
        unfinished: The ids of the jobs that were not final.
    """

    def __init__(self, message: str, unfinished: tuple[str, ...]) -> None:
        super().__init__(message)
        self.unfinished = unfinished


class StackFailed(ProducerError):
    """What was started for one command ended before it could work; the message has its last words."""


class NotSaved(ProducerError):
    """A file could not be written where it was wanted; the message names it and the reason."""


class NotDrawn(ProducerError):
    """A picture could not be drawn; the message says what is missing."""
