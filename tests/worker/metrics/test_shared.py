"""Numbers pass from a process to its supervisor, and outlive the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from soundmill.worker.metrics import shared
from soundmill.worker.metrics.host import HostMeasures
from soundmill.worker.metrics.shared import SLOT_BYTES, FiguresReader, FiguresWriter

from .scrapes import Scrape


class Process:
    """What a process of a card has: a few metrics, and where it leaves them."""

    def __init__(self, descriptor: int) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter("soundmill_attempts", "Jobs.", ["device"], registry=self.registry)
        self.slots = Gauge("soundmill_slots", "Slots.", ["device"], registry=self.registry)
        self.waits = Histogram(
            "soundmill_wait_seconds", "Waits.", ["device"], buckets=(1, 2), registry=self.registry
        )
        self.writer = FiguresWriter(descriptor, self.registry)


@pytest.fixture
def measures() -> HostMeasures:
    return HostMeasures()


@pytest.fixture
def reader(measures: HostMeasures) -> Iterator[FiguresReader]:
    reader = measures.card("cpu:0")
    yield reader
    reader.close()


def test_nothing_is_read_before_something_was_written(measures: HostMeasures, reader: FiguresReader) -> None:
    assert reader.read() == []
    assert Scrape.of(measures.registry)("attempts_total", device="cpu:0") is None


def test_what_a_process_counts_is_read_by_its_supervisor(
    measures: HostMeasures, reader: FiguresReader
) -> None:
    process = Process(reader.descriptor)
    for number in range(1, 4):
        process.jobs.labels("cpu:0").inc()
        process.waits.labels("cpu:0").observe(number)
        process.slots.labels("cpu:0").set(number)
        process.writer.write()
        scrape = Scrape.of(measures.registry)
        assert scrape("attempts_total", device="cpu:0") == number
        assert scrape("wait_seconds_count", device="cpu:0") == number
        assert scrape("slots", device="cpu:0") == number
    assert Scrape.of(measures.registry)("wait_seconds_bucket", device="cpu:0", le="2.0") == 2


def test_counts_go_on_where_the_last_process_ended_and_its_gauges_are_gone(
    measures: HostMeasures, reader: FiguresReader
) -> None:
    for _ in range(3):
        process = Process(reader.descriptor)
        process.jobs.labels("cpu:0").inc(2)
        process.waits.labels("cpu:0").observe(1.5)
        process.slots.labels("cpu:0").set(8)
        process.writer.write()
        reader.turn_over()
    scrape = Scrape.of(measures.registry)
    assert scrape("attempts_total", device="cpu:0") == 6
    assert scrape("wait_seconds_bucket", device="cpu:0", le="2.0") == 3
    assert scrape("wait_seconds_sum", device="cpu:0") == 4.5
    assert scrape("slots", device="cpu:0") is None


def test_a_text_that_is_being_written_is_not_read(measures: HostMeasures, reader: FiguresReader) -> None:
    process = Process(reader.descriptor)
    process.jobs.labels("cpu:0").inc()
    process.writer.write()
    process.jobs.labels("cpu:0").inc()
    process.writer.write()
    newest = (process.writer._writings % 2) * SLOT_BYTES
    process.writer._shared[newest + 40 : newest + 45] = b"?????"  # a process that was killed half-way
    assert Scrape.of(measures.registry)("attempts_total", device="cpu:0") == 1
    process.writer._shared[0:4] = process.writer._shared[SLOT_BYTES : SLOT_BYTES + 4] = b"\0\0\0\0"
    assert reader.read() == []


def test_cards_are_shown_together_each_family_once(measures: HostMeasures, reader: FiguresReader) -> None:
    other = measures.card("cpu:1")
    for number, (name, end) in enumerate((("cpu:0", reader), ("cpu:1", other)), 1):
        process = Process(end.descriptor)
        process.jobs.labels(name).inc(number)
        process.writer.write()
    scrape = Scrape.of(measures.registry)  # which refuses a family that appears twice
    assert (scrape("attempts_total", device="cpu:0"), scrape("attempts_total", device="cpu:1")) == (1, 2)
    other.close()
    other.close()
    assert Scrape.of(measures.registry)("attempts_total", device="cpu:1") == 2


def test_what_does_not_fit_is_left_out_and_said(
    reader: FiguresReader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(reader.descriptor)
    process.jobs.labels("cpu:0").inc()
    process.writer.write()
    monkeypatch.setattr(shared, "SLOT_BYTES", 50)
    process.writer.write()
    assert "do not fit" in caplog.text
    monkeypatch.undo()
    assert reader.read()[0].samples[0].value == 1


def test_the_last_numbers_are_written_when_the_process_leaves(
    reader: FiguresReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "PUBLISH_EVERY_S", 3600.0)
    process = Process(reader.descriptor)
    process.writer.start()
    process.jobs.labels("cpu:0").inc(5)
    process.writer.close()
    assert [sample.value for sample in reader.read()[0].samples] == [5]


def test_what_the_supervisor_counts_itself(measures: HostMeasures) -> None:
    measures.started("cpu:0")
    measures.started("cpu:1")
    measures.ended("cpu:1", "stuck")
    measures.ended("cpu:1", None)
    measures.rescued("expired", 3)
    measures.rescued("killed", 2)
    measures.published(10)
    measures.repeated(4)
    measures.expired(1)
    measures.leads(True)
    measures.broker_restarted()
    scrape = Scrape.of(measures.registry)
    assert (scrape("card_up", device="cpu:0"), scrape("card_up", device="cpu:1")) == (1, 0)
    assert scrape("card_restarts_total", device="cpu:1", reason="stuck") == 1
    assert [scrape("lease_rescues_total", reason=reason) for reason in ("expired", "killed", "crashed")] == [
        3,
        2,
        0,
    ]
    assert (scrape("messages_published_total"), scrape("messages_repeated_total")) == (10, 4)
    assert (scrape("requests_expired_total"), scrape("dispatcher_leads")) == (1, 1)
    assert scrape("broker_restarts_total") == 1
    assert scrape.total("build_info") == 1
