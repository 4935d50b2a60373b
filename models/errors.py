"""What can go wrong while a model performs a request.

    ModelError
    ├── InputError            the request or its audio cannot be used as it is
    ├── ModelUnavailable      the model cannot run on this machine (library or weights missing)
    ├── OutOfMemory           the card's allocator refused; a smaller batch may pass
    ├── HelperDied            a process that helps with the host's side of the work ended
    └── CardFailed            the card or its driver is in an unknown state
        └── CardSuspect       and the card itself may be broken: it is checked before it is used again
    Interrupted
    ├── Cancelled             the submitter asked for it
    ├── DeadlineExceeded      the job's own deadline passed
    ├── LeaseLost             another attempt may already own the job
    └── ShuttingDown          the worker is stopping; the job goes back to its queue

What each of them does to a job stands in the worker's outcome table.
"""

from __future__ import annotations


class ModelError(Exception):
    """A request could not be performed. The message is a sentence for the submitter."""


class InputError(ModelError):
    """The request or its audio cannot be used; the same request would fail again."""


class ModelUnavailable(ModelError):
    """The model cannot run here: the message names what to install or where to put it."""


class OutOfMemory(ModelError):
    """The card's allocator refused memory; other jobs on the card are unharmed."""


class HelperDied(ModelError):
    """A helper process ended while it worked: it ran out of memory, or a library crashed it."""


class CardFailed(ModelError):
    """The card raised an error that leaves it unusable: the process has to end."""


class CardSuspect(CardFailed):
    """The card itself may be broken: the process has to end, and the card is checked before its next one."""


class Interrupted(Exception):
    """A checkpoint told the handler to stop. Handlers let it pass, after freeing what they hold."""


class Cancelled(Interrupted):
    """The job was cancelled while it ran."""


class DeadlineExceeded(Interrupted):
    """The job ran into its own deadline."""


class LeaseLost(Interrupted):
    """The attempt's lease ran out: whatever it still produces would be refused."""


class ShuttingDown(Interrupted):
    """The worker is stopping and hands its jobs back."""
