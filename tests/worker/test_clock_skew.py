"""Hosts whose clocks disagree by minutes: leases, deadlines and delays are counted on the database's clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from soundmill.storage.broker import running_broker_url
from soundmill.storage.lifecycle import State

from .running import PLUGINS, Stack, until

SKEW_S = 300.0
START_S = 120.0


class SkewedStack(Stack):
    """A host whose processes have a wall clock that is wrong."""

    def __init__(self, folder: Path, database_url: str, skew_s: float, **settings: Any) -> None:
        folder.mkdir()
        super().__init__(folder, database_url, **settings)
        self._skew_s = skew_s

    def environment(self) -> dict[str, str]:
        environment = super().environment()
        path = os.pathsep.join([str(PLUGINS / "skewed"), environment["PYTHONPATH"]])
        return environment | {"PYTHONPATH": path, "SKEW_S": str(self._skew_s)}


@pytest.fixture
def hosts(tmp_path: Path, postgres_url: str) -> Iterator[list[Stack]]:
    """One host that is five minutes ahead and one that is five behind, on one job table and one Redis."""
    with ExitStack() as stack:
        ahead = SkewedStack(tmp_path / "ahead", postgres_url, SKEW_S)
        stack.callback(ahead.close)
        ahead.start("cpu:0", wait=False)
        until(lambda: _broker_answers(ahead), START_S, ahead.words)
        socket = ahead.redis().connection_pool.connection_kwargs["path"]
        behind = SkewedStack(
            tmp_path / "behind",
            postgres_url,
            -SKEW_S,
            broker_url=f"redis+socket://{socket}",
            state_dir=tmp_path / "b",
        )
        stack.callback(behind.close)
        behind.log = ahead.log
        behind.start("cpu:1", wait=False)
        for host in (ahead, behind):
            until(partial(_reported, host), START_S, host.words)
        yield [ahead, behind]


def _broker_answers(stack: Stack) -> bool:
    return running_broker_url(stack.settings) is not None


def _reported(stack: Stack) -> bool:
    return bool(stack.cards()) and all(map(stack._reported, stack.cards()))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_clocks_that_are_minutes_off_change_nothing(hosts: list[Stack]) -> None:
    ahead, behind = hosts
    for host in hosts:
        assert "clock jumped" not in host.words()
    ids = ahead.submit_many(40, steps=40, step_s=0.02, timeout_s=60.0)
    long = ahead.submit_many(4, steps=100, step_s=0.05, timeout_s=120.0)  # beyond a lease of three seconds
    delayed = ahead.submit(delay_s=2.0)[0]
    again = ahead.submit(what="fail", once=True)[0]
    late = ahead.submit(steps=2000, step_s=0.02, timeout_s=4.0)[0]
    everything = [*ids, *long, delayed, again, late]
    ahead.await_final(everything)

    ahead.assert_sound(everything, again=1)  # the one that failed once
    assert ahead.states([*ids, *long]) == {"completed": 44}
    assert {ahead.job(id_).card for id_ in ids} == {"cpu:0", "cpu:1"}, "both hosts took part"
    assert all(ahead.job(id_).attempt == 1 for id_ in (*ids, *long)), "no lease ran out"
    assert (ahead.job(late).state, ahead.job(late).error_code) == (State.DISCARDED, "deadline_exceeded")
    assert [a.outcome for a in ahead.attempts(again)] == ["failed", "completed"]
    now = _server_time(ahead)
    for job in map(ahead.job, everything):
        assert job.started_at is not None
        assert job.finished_at is not None
        assert job.submitted_at <= job.started_at <= job.finished_at <= now
        assert now - job.submitted_at < SKEW_S / 2
        assert job.metrics is None or 0 <= job.metrics["queue_wait_s"] < SKEW_S / 2
    held = ahead.job(delayed)
    assert (held.started_at or 0) - held.submitted_at >= 2.0
    took = ahead.job(late)
    assert (took.finished_at or 0) - took.submitted_at < SKEW_S / 2

    # A card that is killed has its jobs back in their queue as fast as anywhere.
    more = ahead.submit_many(20, steps=60, step_s=0.05)
    until(lambda: ahead.states(more)["executing"] >= 10, 30, ahead.words)
    behind.kill("cpu:1")
    ahead.await_final(more)
    ahead.assert_sound(more, again=12)
    assert ahead.states(more) == {"completed": 20}


def _server_time(stack: Stack) -> float:
    with stack.database.read() as connection:
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def test_the_drill_of_a_wrong_clock_is_one() -> None:
    environment = os.environ | {"PYTHONPATH": str(PLUGINS / "skewed"), "SKEW_S": "300"}
    words = [sys.executable, "-c", "import time; from time import time as t; print(time.time(), t())"]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert all(250 < float(clock) - time.time() < 310 for clock in said)
