"""The line of progress: what it says on a terminal, and that it says nothing elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from soundmill.producer import console
from soundmill.producer.follower import Figures
from soundmill.producer.progress import CountLine, ProgressLine
from soundmill.storage.lifecycle import State


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person sees."""
    seen = io.StringIO()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(console, "stderr", lambda: Console(file=seen, force_terminal=True, width=150))
    return seen


def figures(completed: int, waiting: int) -> Figures:
    counts = dict.fromkeys(State, 0) | {
        State.COMPLETED: completed, State.DISCARDED: 2, State.AVAILABLE: waiting,
    }  # fmt: skip
    return Figures(counts=counts, audio_s=100.0, jobs_per_s=2.5, audio_per_s=12.5)


def test_it_shows_jobs_failures_speeds_and_the_time_left(terminal: io.StringIO) -> None:
    with ProgressLine() as line:
        line.show(figures(8, 90), 1, reading=False)

    for words in ("10/100 jobs", "3 failed", "2.5 jobs/s", "12.5 audio-s/s", "0:00:36 left"):
        assert words in terminal.getvalue()


def test_while_lines_are_read_nobody_knows_how_long_it_takes(terminal: io.StringIO) -> None:
    with ProgressLine() as line:
        line.show(figures(8, 90), 0, reading=True)

    assert "10/100+ jobs" in terminal.getvalue()
    assert "left" not in terminal.getvalue()


def test_a_count_is_shown_too(terminal: io.StringIO) -> None:
    with CountLine("jobs") as line:
        line.show(1234)

    assert "jobs" in terminal.getvalue()


def test_away_from_a_terminal_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine() as line, CountLine("jobs") as count:
        line.show(figures(1, 1), 0, reading=False)
        count.show(1)

    assert capsys.readouterr() == ("", "")
