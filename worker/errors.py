"""What can go wrong in a worker.

WorkerError
├── CardBusy         another process of this host holds the card
├── ChildFailed      the process of a card did not come up
├── ConversionFailed a pickle of weights could not be converted
└── PullFailed       the weights of a model could not be fetched
    ├── HubUnreachable   the hub does not answer, or not to the end
    ├── HubRefused       it has no such repository or revision, or asks for more than it was given
    ├── DownloadDamaged  what it gave is not what it lists
    ├── NoRoom           the disk is too small
    └── PullBusy         another process fetches the same
JobDiscarded         raised to Celery only, so that Flower shows the truth
"""

from __future__ import annotations


class WorkerError(Exception):
    """The base; the message is a sentence for the operator."""


class CardBusy(WorkerError):
    """Another process holds the card's lock. Stop that one, or choose another card."""


class ChildFailed(WorkerError):
    """The process of a card ended before it was ready; the message has its last words."""


class ConversionFailed(WorkerError):
    """A pickle could not be turned into safetensors; the message has the words of the process that tried."""


class PullFailed(WorkerError):
    """The weights of a model could not be fetched. What is there already is kept for the next try."""


class HubUnreachable(PullFailed):
    """A hub does not answer, or the connection broke again and again. Try later, or put files by hand."""


class HubRefused(PullFailed):
    """A hub does not give what was asked for; the message says what it lacks or wants."""


class DownloadDamaged(PullFailed):
    """A file is not the one that the hub lists, or the list itself cannot be trusted."""


class NoRoom(PullFailed):
    """The disk does not hold the files. Free so many bytes, or choose another `models_dir`."""


class PullBusy(PullFailed):
    """Another process fetches the same model into the same folder. Wait for it."""


class JobDiscarded(Exception):
    """Tells Celery that the job failed for good. It carries the code only, never the user's words."""
