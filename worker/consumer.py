"""Celery's consumer, with calmer events.

Celery publishes the events of a worker at every turn of its hub. A job that spends its time in other
threads causes several turns, and each publish costs about as much as the rest of the job's way
through Celery. Here they leave together, a few times a second, which is soon enough for eyes.
"""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer

FLUSH_EVERY_S = 0.05


class CardConsumer(Consumer):
    """Publishes its events at most every `FLUSH_EVERY_S`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._flush_is_due = False

    def on_send_event_buffered(self) -> None:
        """An event waits; called by any thread."""
        # Two threads that get here together schedule two flushes, the second of which finds nothing.
        if self.hub and not self._flush_is_due:
            self._flush_is_due = True
            self.hub.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self.hub.call_later(FLUSH_EVERY_S, self._flush_now)

    def _flush_now(self) -> None:
        self._flush_is_due = False
        self._flush_events()
