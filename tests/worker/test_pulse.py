"""When the work of a process last moved, as another process sees it."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from soundmill.worker.pulse import Pulse, PulseReader


@pytest.fixture
def reader() -> Iterator[PulseReader]:
    reader = PulseReader()
    yield reader
    reader.close()


def test_an_idle_process_is_never_stuck(reader: PulseReader) -> None:
    Pulse(reader.descriptor)
    assert reader.stuck_at() == math.inf


def test_a_watched_handler_counts_as_stuck_after_its_limit(reader: PulseReader) -> None:
    pulse = Pulse(reader.descriptor)
    with pulse.watching("job", 100.0):
        assert reader.stuck_at() == pytest.approx(time.monotonic() + 100, abs=5)
        assert not pulse.stuck("job")
    assert reader.stuck_at() == math.inf


def test_the_slowest_of_many_handlers_counts(reader: PulseReader) -> None:
    pulse = Pulse(reader.descriptor)
    with pulse.watching("quick", 10.0), pulse.watching("slow", 1000.0):
        assert reader.stuck_at() < time.monotonic() + 20


def test_a_beat_moves_the_moment_on(reader: PulseReader) -> None:
    pulse = Pulse(reader.descriptor)
    with pulse.watching("job", 0.01):
        time.sleep(0.05)
        assert pulse.stuck("job")
        assert reader.stuck_at() < time.monotonic()
        pulse.set_limit("job", 100.0)
        assert not pulse.stuck("job")
        pulse.beat("job")
        assert reader.stuck_at() > time.monotonic() + 50


def test_a_pulse_without_a_supervisor_keeps_it_to_itself() -> None:
    pulse = Pulse(None)
    with pulse.watching("job", 0.0):
        time.sleep(0.01)
        assert pulse.stuck("job")


def test_another_process_writes_what_the_supervisor_reads(reader: PulseReader) -> None:
    program = (
        "import sys; from soundmill.worker.pulse import Pulse; pulse = Pulse(int(sys.argv[1])); "
        "pulse.set_limit('job', 500.0)"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(reader.descriptor)],
        pass_fds=[reader.descriptor],
        check=True,
        timeout=60,
    )
    assert reader.stuck_at() == pytest.approx(time.monotonic() + 500, abs=60)
    reader.reset()
    assert reader.stuck_at() == math.inf


def test_two_supervisors_never_share_a_pulse() -> None:
    first, second = PulseReader(), PulseReader()
    pulse = Pulse(first.descriptor)
    with pulse.watching("job", 1.0):
        second.reset()
        assert first.stuck_at() < math.inf
        assert second.stuck_at() == math.inf
    first.close()
    second.close()
