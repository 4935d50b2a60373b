"""Following a batch to its end: counts, seconds of audio, and the failures, in bounded reads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soundmill.storage.lifecycle import State

from . import lookup

if TYPE_CHECKING:
    from .lookup import Outline
    from .producer import Producer

PAGE = 1000
PAGES_AT_ONCE = 10
FAILURES_KEPT = 20
RATE_OVER_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A batch at one moment.

    Attributes:
        counts: Its jobs by state.
        audio_s: Seconds of audio that its completed jobs made or read; while it runs, of those that
            come early in it.
        jobs_per_s: Jobs that became final per second, lately.
        audio_per_s: Seconds of audio per second, lately.
    """

    counts: Mapping[State, int]
    audio_s: float
    jobs_per_s: float
    audio_per_s: float

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def final(self) -> int:
        return sum(count for state, count in self.counts.items() if state.final)

    @property
    def failed(self) -> int:
        """Jobs that will not complete."""
        return self.counts[State.DISCARDED] + self.counts[State.CANCELLED]

    @property
    def left_s(self) -> float | None:
        """How long the rest takes at the present rate; `None` while there is none."""
        return (self.total - self.final) / self.jobs_per_s if self.jobs_per_s > 0 else None


class Follower:
    """Reads a batch again and again, each time only what may have changed.

    Jobs finish roughly in the order of their acceptance, so a cursor moves over those that are
    final, and a page behind it is looked at.

    Attributes:
        failures: The first jobs of the batch that will not complete.
    """

    def __init__(self, producer: Producer, batch: str) -> None:
        self._producer = producer
        self._batch = batch
        self._cursor = 0
        self._passed_audio_s = 0.0
        self._moments: deque[tuple[float, int, float]] = deque()
        self.failures: list[Outline] = []

    def look(self, *, to_the_end: bool = False) -> Figures:
        """Read the batch.

        Args:
            to_the_end: Move the cursor as far as it goes, however many pages that takes.

        Raises:
            StorageUnavailable: The job table did not answer.
        """
        tenant = self._producer.settings.tenant
        with self._producer.database.read() as connection:
            counts = lookup.counts_of_batch(connection, tenant, self._batch)
        pages, ahead_audio_s = 0, 0.0
        while to_the_end or pages < PAGES_AT_ONCE:
            with self._producer.database.read() as connection:
                page = lookup.outlines(connection, tenant, self._batch, self._cursor, PAGE)
            passed = self._pass_over(page)
            ahead_audio_s = sum(job.audio_s for job in page[passed:] if job.state.final)
            pages += 1
            if passed < PAGE:
                break
        return self._figures(counts, self._passed_audio_s + ahead_audio_s)

    def _pass_over(self, page: list[Outline]) -> int:
        """Move the cursor over the final jobs that the page begins with; return how many they are."""
        for place, job in enumerate(page):
            if not job.state.final:
                return place
            self._cursor = job.seq
            self._passed_audio_s += job.audio_s
            if job.state != State.COMPLETED and len(self.failures) < FAILURES_KEPT:
                self.failures.append(job)
        return len(page)

    def _figures(self, counts: Mapping[State, int], audio_s: float) -> Figures:
        now = time.monotonic()
        final = sum(count for state, count in counts.items() if state.final)
        self._moments.append((now, final, audio_s))
        while now - self._moments[0][0] > RATE_OVER_S:
            self._moments.popleft()
        since, final_then, audio_then = self._moments[0]
        span_s = max(now - since, 1e-3)
        return Figures(
            counts=counts,
            audio_s=audio_s,
            jobs_per_s=max(0.0, (final - final_then) / span_s),
            audio_per_s=max(0.0, (audio_s - audio_then) / span_s),
        )
