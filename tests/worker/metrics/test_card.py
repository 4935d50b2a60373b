"""What the process of a card counts, and how it is called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from soundmill.models.engine.meter import Meter
from soundmill.models.station import Station
from soundmill.storage.attempts import Claimed
from soundmill.worker.metrics.card import CardMeasures, ProcessCollector, engine_families

from .scrapes import Scrape

JOB = Claimed(
    id="1", attempt=1, tenant="default", batch_id="default/", kind="tts", model="toy", args={}, args_version=1,
    priority=4, failures=0, max_failures=3, suspect=False, available_at=100.0, started_at=103.0, deadline_at=None,
    lease_until=130.0,
)  # fmt: skip
HERE = {"model": "toy", "device": "npu:0"}


@pytest.fixture
def measures() -> CardMeasures:
    measures = CardMeasures("npu:0")
    measures.serves("toy", 8)
    return measures


def test_an_idle_card_has_its_series_at_zero(measures: CardMeasures) -> None:
    scrape = Scrape.of(measures.registry)
    assert scrape("slots", **HERE) == 8
    assert scrape("num_requests_running", **HERE) == 0
    assert scrape("audio_seconds_total", **HERE) == 0
    assert scrape("attempts_total", **HERE, outcome="completed") == 0


def test_a_completed_job_is_counted_with_its_audio_and_its_times(measures: CardMeasures) -> None:
    with measures.running("toy"):
        assert Scrape.of(measures.registry)("num_requests_running", **HERE) == 1
    measures.ended(
        JOB, "completed", code=None, took_s=2.0, seconds={"prefill": 0.5, "generation": 1.25},
        metrics={"audio_s": 7.0, "real_time_factor": 0.25},
    )  # fmt: skip
    scrape = Scrape.of(measures.registry)
    assert scrape("num_requests_running", **HERE) == 0
    assert scrape("attempts_total", **HERE, outcome="completed") == 1
    assert scrape("audio_seconds_total", **HERE) == 7
    assert scrape("audio_duration_seconds_sum", **HERE) == 7
    assert scrape("audio_rtf_sum", **HERE) == 0.25
    assert scrape("request_queue_wait_seconds_sum", **HERE) == 3
    assert scrape("e2e_request_latency_seconds_sum", **HERE) == 5
    assert scrape("e2e_request_latency_seconds_bucket", **HERE, le="5.0") == 1
    assert scrape("e2e_request_latency_seconds_bucket", **HERE, le="2.5") == 0
    assert scrape("phase_seconds_total", **HERE, phase="generation") == 1.25


@pytest.mark.parametrize(
    ("outcome", "name"), [("discarded", "requests_failed_total"), ("failed", "retries_total")]
)
def test_a_failure_is_counted_by_its_reason(outcome: str, name: str, measures: CardMeasures) -> None:
    for code in ("out_of_memory", "out_of_memory", None):
        measures.ended(JOB, outcome, code=code, took_s=1.0, seconds={}, metrics=None)
    scrape = Scrape.of(measures.registry)
    assert scrape(name, **HERE, reason="out_of_memory") == 2
    assert scrape(name, **HERE, reason="none") == 1
    assert scrape("attempts_total", **HERE, outcome=outcome) == 3
    assert scrape("e2e_request_latency_seconds_count", **HERE) is None


def test_clocks_that_disagree_give_no_negative_wait(measures: CardMeasures) -> None:
    measures.ended(
        replace(JOB, started_at=90.0), "completed", code=None, took_s=1.0, seconds={},
        metrics={"audio_s": "long", "real_time_factor": None},
    )  # fmt: skip
    scrape = Scrape.of(measures.registry)
    assert scrape("request_queue_wait_seconds_sum", **HERE) == 0
    assert scrape("audio_seconds_total", **HERE) == 0


class Families(Collector):
    """Those of an engine."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        return engine_families(self._meter, "npu:0")


def test_the_numbers_of_an_engine_become_metrics() -> None:
    meter, registry = Meter(), CollectorRegistry()
    lane = meter.lane("toy")
    for rows, bucket in ((1, 1), (3, 4), (400, 512)):
        lane.sizes.add(rows)
        lane.padding.add(1 - rows / bucket)
    lane.busy_s = 1.5
    registry.register(Families(meter))
    scrape = Scrape.of(registry)
    assert scrape("device_busy_seconds_total", **HERE) == 1.5
    assert [scrape("batch_size_bucket", **HERE, le=le) for le in ("1.0", "2.0", "4.0", "384.0", "+Inf")] == [
        1, 1, 2, 2, 3,
    ]  # fmt: skip
    assert (scrape("batch_size_count", **HERE), scrape("batch_size_sum", **HERE)) == (3, 404)
    assert scrape("batch_padding_ratio_bucket", **HERE, le="0.0") == 1
    assert scrape("batch_padding_ratio_bucket", **HERE, le="0.25") == 3
    assert scrape("device_memory_used_bytes", device="npu:0") is None  # nobody has asked the device yet


def test_a_process_without_an_engine_tells_its_own_memory() -> None:
    registry = CollectorRegistry()
    registry.register(ProcessCollector(Station("cpu:0"), "cpu:0"))
    scrape = Scrape.of(registry)
    assert (scrape("process_resident_memory_bytes", device="cpu:0") or 0) > 2**20
    assert (scrape("process_cpu_seconds_total", device="cpu:0") or 0) > 0


UNITS = ("_seconds", "_bytes", "_ratio", "_rtf", "_size", "_running", "_total", "soundmill_slots")


def test_names_carry_their_units_and_labels_have_few_values(measures: CardMeasures) -> None:
    registry = CollectorRegistry()
    registry.register(ProcessCollector(Station("cpu:0"), "cpu:0"))
    for family in [*measures.registry.collect(), *registry.collect()]:
        name = family.name + ("_total" if family.type == "counter" else "")
        assert re.fullmatch(r"soundmill_[a-z0-9_]+", name)
        assert name.endswith(UNITS), name
        assert family.documentation.endswith("."), name
        for sample in family.samples:
            assert set(sample.labels) <= {"model", "device", "outcome", "reason", "phase", "le"}, name
