"""Whole batches: what became of one, and decisions about all its jobs, page by page.

Every page is a short transaction, so that a million jobs block nobody and fit into any memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from soundmill.storage.errors import StateConflict
from soundmill.storage.lifecycle import FAILED, State
from soundmill.storage.listing import page_of_jobs

from . import lookup

if TYPE_CHECKING:
    from soundmill.storage.listing import JobView

    from .lookup import BatchView
    from .producer import Producer

PAGE = 500
SUMMARY_PAGE = 5000
NO_CODE = "(none)"


@dataclass(slots=True, kw_only=True)
class Summary:
    """What became of a batch.

    Attributes:
        models: Its jobs by model and kind.
        revisions: The revisions of each model that its completed jobs ran on.
        failures: Its discarded and cancelled jobs by error code.
        audio_s: Seconds of audio that its completed jobs made or read.
        finished_at: When the last one became final.
    """

    batch: BatchView
    models: Counter[tuple[str, str]] = field(default_factory=Counter)
    revisions: dict[str, set[str]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    audio_s: float = 0.0
    finished_at: float | None = None


def summarise(producer: Producer, name: str) -> Summary:
    """Read a batch from its first job to its last.

    Raises:
        NotFound: The tenant has no such batch.
    """
    tenant, after = producer.settings.tenant, 0
    with producer.database.read() as connection:
        summary = Summary(batch=lookup.batch_of(connection, tenant, name))
    while True:
        with producer.database.read() as connection:
            page = lookup.endings(connection, tenant, name, after, SUMMARY_PAGE)
        for ending in page:
            _add(summary, ending)
        if len(page) < SUMMARY_PAGE:
            return summary
        after = page[-1].seq


def _add(summary: Summary, ending: lookup.Ending) -> None:
    summary.models[ending.model, ending.kind] += 1
    if ending.finished_at is not None:
        summary.finished_at = max(summary.finished_at or 0.0, ending.finished_at)
    if ending.state == State.COMPLETED:
        summary.audio_s += float((ending.metrics or {}).get("audio_s") or 0.0)
        if ending.model_revision is not None:
            summary.revisions.setdefault(ending.model, set()).add(ending.model_revision)
    elif ending.state in FAILED:
        summary.failures[ending.error_code or NO_CODE] += 1


def pages(
    producer: Producer, name: str, states: Collection[State], size: int | None = None
) -> Iterator[list[JobView]]:
    """The jobs of a batch that are in some states, in order of acceptance."""
    after, limit = 0, size or PAGE
    while True:
        with producer.database.read() as connection:
            page = page_of_jobs(
                connection,
                tenant=producer.settings.tenant,
                batch=name,
                states=states,
                after_seq=after,
                limit=limit,
            )
        if page:
            yield page
        if len(page) < limit:
            return
        after = page[-1].seq


def cancel_batch(producer: Producer, name: str, seen: Callable[[int], None] = lambda _: None) -> int:
    """Cancel all jobs of a batch that are not final; return how many they were.

    Args:
        producer: Whose batch it is.
        name: Of the batch.
        seen: Told how many there are, after each page.

    Raises:
        NotFound: The tenant has no such batch.
    """
    _require(producer, name)
    count = 0
    for page in pages(producer, name, [state for state in State if not state.final]):
        producer.cancel([job.id for job in page])
        count += len(page)
        seen(count)
    return count


def retry_failed(
    producer: Producer,
    name: str,
    states: Collection[State] = (State.DISCARDED,),
    seen: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Bring back the jobs of a batch that failed.

    Args:
        producer: Whose batch it is.
        name: Of the batch.
        states: Which of its jobs count as failed.
        seen: Told how many came back, after each page.

    Returns:
        How many came back, and how many could not: they wait for a job that failed outside of the
        batch, or somebody else retried them meanwhile.

    Raises:
        NotFound: The tenant has no such batch.
    """
    _require(producer, name)
    back = left = 0
    for page in pages(producer, name, states):
        done = _retry_page(producer, [job.id for job in page])
        back, left = back + done, left + len(page) - done
        seen(back)
    return back, left


def _retry_page(producer: Producer, ids: list[str]) -> int:
    try:
        producer.retry(ids)
    except StateConflict:
        if len(ids) == 1:
            return 0
        # One of them is at fault; a page is all or nothing, so halve it until that one stands alone.
        middle = len(ids) // 2
        return _retry_page(producer, ids[:middle]) + _retry_page(producer, ids[middle:])
    return len(ids)


def _require(producer: Producer, name: str) -> None:
    with producer.database.read() as connection:
        lookup.batch_of(connection, producer.settings.tenant, name)
