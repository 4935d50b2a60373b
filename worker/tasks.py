"""The tasks: one for each kind of job. Their bodies hand the job to the executor and report back.

Celery is told the truth about the end, so that Flower shows it: a job that will run again is
RETRY, one that failed for good FAILURE with its code, a cancelled one REVOKED.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from billiard.exceptions import Terminated
from celery import Celery, Task
from celery.exceptions import Ignore, Retry

from soundmill.storage.queue import task_name

from .errors import JobDiscarded
from .executor import Ending, Report


class Executes(Protocol):
    """What a task needs of the executor."""

    def execute(self, job_id: str) -> Report:
        """Perform a job."""


def register(app: Celery, kinds: Iterable[str]) -> None:
    """Add the task of each kind to the application.

    The executor is looked up when a message comes: `app.executor`, which the card's process sets.
    """
    for kind in kinds:
        app.task(
            name=task_name(kind),
            bind=True,
            acks_late=True,
            ignore_result=True,
            throws=(JobDiscarded, Terminated),  # what a job comes to is no error of the task
        )(perform)


def perform(self: Task, job_id: str) -> str:
    """Perform one job.

    Raises:
        Retry: It goes on in another attempt.
        JobDiscarded: It failed for good.
        Terminated: It was cancelled.
        Ignore: There was nothing to do.
    """
    executor: Executes = self.app.executor
    return report(executor.execute(job_id))


def report(outcome: Report) -> str:
    """Tell Celery how the job ended; see `perform` for what is raised."""
    if outcome.ending in (Ending.RETRYABLE, Ending.HANDED_BACK):
        raise Retry(message=outcome.code or outcome.ending.value)
    if outcome.ending == Ending.DISCARDED:
        raise JobDiscarded(outcome.code)
    if outcome.ending == Ending.CANCELLED:
        raise Terminated  # the request itself sends the event, over the connection that is there
    if outcome.ending == Ending.NOTHING:
        raise Ignore
    return str(outcome.ending.value)
