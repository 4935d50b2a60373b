"""What others chose, in a log: it stays on its line, and in its field."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.worker.logs import FieldFormatter

FORGED = "x\n2026-01-01 00:00:00,000 CRITICAL soundmill.worker: the card failed job_id=01FORGED"


def line(message: str = "said", error: BaseException | None = None, **fields: Any) -> str:
    record = logging.makeLogRecord({
        "name": "soundmill.x", "levelname": "INFO", "msg": message,
        "exc_info": None if error is None else (type(error), error, error.__traceback__),
    } | fields)  # fmt: skip
    return FieldFormatter("[cpu:0] ").format(record)


@pytest.mark.parametrize("text", [FORGED, "\x1b[2J\x1b]0;owned\x07", "a\r\nb", "a\x85b\u2028c", "\u202ejob"])
def test_a_record_is_one_line_of_what_can_be_seen(text: str) -> None:
    for made in (line(reason=text), line(message=text), line(reason=[text]), line(job_id=text)):
        assert made.isprintable()


def test_a_value_cannot_pass_for_another_field() -> None:
    assert line(reason='x" job_id=01FORGED', attempt=2).endswith(
        'said reason="x\\" job_id=01FORGED" attempt=2'
    )
    assert line(reason="plain", models=["a", "b"]).endswith("said reason=plain models=['a', 'b']")
    assert line(reason="").endswith('reason=""')


def test_the_text_of_an_error_forges_no_line() -> None:
    try:
        raise ValueError(FORGED + "\x1b[2J")
    except ValueError as error:
        first, *more = line(error=error).split("\n")
    assert first.endswith("said")
    assert more
    assert all(one.startswith("    ") and one.isprintable() for one in more)
    assert any("the card failed" in one for one in more), "it is told all the same"


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_leaves_one_line(message: str, value: str) -> None:
    made = line(message=message.replace("%", ""), reason=value)
    assert len(made.splitlines()) == 1


def test_what_celery_says_of_a_message_is_one_line_too() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter())
    record = logging.LogRecord(
        "celery", logging.CRITICAL, "", 0, "Can't decode message body: %r\n\n%s", ("\x1b", "b"), None
    )
    assert handler.format(record).isprintable()
