"""Metrics over HTTP: of the whole stack, and of the exporter's command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from soundmill.storage.errors import SettingsError
from soundmill.storage.lifecycle import State
from soundmill.storage.settings import Settings
from soundmill.worker import cli
from soundmill.worker.metrics.server import MetricsServer

from ..running import Stack, until
from .scrapes import Scrape


def test_a_registry_is_served_until_the_server_is_closed() -> None:
    registry = CollectorRegistry()
    Gauge("soundmill_answer", "The answer.", registry=registry).set(42)
    with MetricsServer(registry, address="127.0.0.1", port=0) as server:
        assert Scrape.at(server.url)("answer") == 42
    with pytest.raises(OSError, match="refused"):
        Scrape.at(server.url)


def test_a_port_that_is_taken_is_told() -> None:
    with MetricsServer(CollectorRegistry(), address="127.0.0.1", port=0) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(SettingsError, match="choose another port"):
            MetricsServer(CollectorRegistry(), address="127.0.0.1", port=port)
    with pytest.raises(SettingsError, match="an address of this host"):
        MetricsServer(CollectorRegistry(), address="192.0.2.1", port=0)


def test_nothing_is_served_until_somebody_asks_for_it_and_then_on_loopback() -> None:
    assert Settings().metrics_port is None
    assert Settings().metrics_address == "127.0.0.1"
    settings, _ = cli._settings_with([], [], 9541)
    assert (settings.metrics_port, settings.origins["metrics_port"]) == (9541, "flag")


@pytest.mark.slow
def test_a_stack_serves_what_its_cards_and_its_supervisor_count(
    sqlite_stack: Callable[..., Stack],
) -> None:
    stack = sqlite_stack(metrics_port=0)
    stack.start("cpu:0")
    found = re.search(r"metrics are served url=(\S+)", stack.words())
    assert found is not None, stack.words()
    here = {"model": "drill", "device": "cpu:0"}

    def seen(name: str, **labels: str) -> float:
        return Scrape.at(found[1]).total(name, **labels)

    until(lambda: seen("slots", **here) == 8, 30, stack.words)
    ids = stack.submit(*[stack.new() for _ in range(5)], stack.new(what="refuse"))
    for id_ in ids[:5]:
        stack.await_state(id_, State.COMPLETED)
    stack.await_state(ids[5], State.DISCARDED)
    until(lambda: seen("attempts_total", **here, outcome="completed") == 5, 30, stack.words)
    assert seen("requests_failed_total", **here, reason="bad_input") == 1
    assert seen("request_queue_wait_seconds_count", **here) == 6
    assert seen("messages_published_total") >= 6
    assert (seen("card_up", device="cpu:0"), seen("dispatcher_leads")) == (1, 1)
    assert seen("process_resident_memory_bytes", device="cpu:0") > 2**20

    (job,) = stack.submit(steps=2000)
    until(lambda: stack.ran(job), 30, stack.words)
    stack.kill("cpu:0")
    until(lambda: seen("card_restarts_total", device="cpu:0", reason="killed") == 1, 30, stack.words)
    until(lambda: seen("lease_rescues_total", reason="killed") == 1, 30, stack.words)
    until(lambda: seen("slots", **here) == 8, 60, stack.words)
    assert seen("attempts_total", **here, outcome="completed") == 5  # of the process before


@pytest.mark.slow
def test_the_exporter_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    command = [sys.executable, "-m", "soundmill.worker", "metrics", "serve", "--port", "0"]
    process = subprocess.Popen(
        command, env=os.environ | settings.environment(), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        scrape = Scrape.at(line.removeprefix("metrics: ").strip())
        assert (scrape("database_up"), scrape("broker_up")) == (0, 0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
