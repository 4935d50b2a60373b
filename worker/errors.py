"""What can go wrong in a worker.

WorkerError
├── CardBusy         another process of this host holds the card
└── ChildFailed      the process of a card did not come up
JobDiscarded         raised to Celery only, so that Flower shows the truth
"""

from __future__ import annotations


class WorkerError(Exception):
    """The base; the message is a sentence for the operator."""


class CardBusy(WorkerError):
    """Another process holds the card's lock. Stop that one, or choose another card."""


class ChildFailed(WorkerError):
    """The process of a card ended before it was ready; the message has its last words."""


class JobDiscarded(Exception):
    """Tells Celery that the job failed for good. It carries the code only, never the user's words."""
