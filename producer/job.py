"""The handle of a submitted job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from soundmill.storage.lifecycle import State

if TYPE_CHECKING:
    from soundmill.storage.listing import ArtifactView, JobView

    from .producer import Producer


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that was accepted. It can be given as the input audio of another request.

    Attributes:
        id: Its id, 26 characters.
        state: The state it was in when the submit returned.
        fresh: Whether it is new; otherwise it is the job that the idempotency key belongs to.
        warning: A sentence for the submitter, such as that no worker serves the model now.
    """

    id: str
    state: State
    fresh: bool
    warning: str | None = None
    producer: Producer = field(repr=False, compare=False)

    def get(self) -> JobView:
        """The job as it is now."""
        return self.producer.get(self.id)

    def wait(self, timeout_s: float | None = None) -> JobView:
        """Block until the job is final; see `Producer.wait`."""
        return self.producer.wait(self.id, timeout_s)

    def cancel(self) -> None:
        """Cancel it, or ask its worker to stop; see `Producer.cancel`."""
        self.producer.cancel(self.id)

    def retry(self) -> None:
        """Bring it back after it was cancelled or discarded; see `Producer.retry`."""
        self.producer.retry(self.id)

    def artifacts(self) -> list[ArtifactView]:
        """Its files, inputs too."""
        return self.producer.artifacts(self.id)

    def open_artifact(self, name: str) -> BinaryIO:
        """One of its files as a stream, which the caller closes."""
        return self.producer.open_artifact(self.id, name)


Ids = str | Job | Iterable[str | Job]


def ids_of(jobs: Ids) -> list[str]:
    """The ids of one job or several, given as ids or as handles."""
    if isinstance(jobs, str | Job):
        return [_id_of(jobs)]
    return [_id_of(job) for job in jobs]


def grouped(jobs: Iterable[str | Job], size: int) -> Iterator[list[str]]:
    """Ids in groups of at most `size`, read lazily."""
    left = iter(jobs)
    while group := [_id_of(job) for job in islice(left, size)]:
        yield group


def _id_of(job: str | Job) -> str:
    return job.id if isinstance(job, Job) else job
