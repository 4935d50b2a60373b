"""What Celery is told about the end of a job."""

from __future__ import annotations

from typing import Any

import pytest
from billiard.exceptions import Terminated
from celery import Celery
from celery.exceptions import Ignore, Retry

from soundmill.worker.errors import JobDiscarded
from soundmill.worker.executor import Ending, Report
from soundmill.worker.tasks import register, report


def test_a_completed_job_is_a_success() -> None:
    assert report(Report(ending=Ending.COMPLETED)) == "completed"


@pytest.mark.parametrize(
    ("outcome", "raised", "words"),
    [
        (Report(ending=Ending.RETRYABLE, code="out_of_memory"), Retry, "out_of_memory"),
        (Report(ending=Ending.HANDED_BACK), Retry, "handed_back"),
        (Report(ending=Ending.DISCARDED, code="bad_input"), JobDiscarded, "bad_input"),
        (Report(ending=Ending.CANCELLED, code="cancelled"), Terminated, ""),
        (Report(ending=Ending.NOTHING), Ignore, ""),
    ],
)
def test_every_other_end_is_raised(outcome: Report, raised: type[Exception], words: str) -> None:
    with pytest.raises(raised) as caught:
        report(outcome)
    assert words in str(caught.value)


def test_every_ending_has_an_answer() -> None:
    for ending in Ending:
        try:
            report(Report(ending=ending))
        except (Retry, JobDiscarded, Terminated, Ignore):
            continue


class Recorder:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def execute(self, job_id: str) -> Report:
        self.asked.append(job_id)
        return Report(ending=Ending.COMPLETED)


def test_a_task_of_each_kind_hands_its_job_to_the_executor() -> None:
    app: Any = Celery("test", set_as_current=False)
    register(app, ["tts", "align"])
    app.executor = Recorder()
    for kind in ("tts", "align"):
        task = app.tasks[f"soundmill.{kind}"]
        assert task("01J") == "completed"
        assert task.acks_late
        assert task.ignore_result
    assert app.executor.asked == ["01J", "01J"]
