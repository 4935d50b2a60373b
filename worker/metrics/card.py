"""What the process of a card counts: its attempts, what they took, and the work of its engine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from soundmill.models import histogram
from soundmill.models.device.memory import resident
from soundmill.models.engine.meter import Meter
from soundmill.models.station import Station
from soundmill.storage.attempts import Claimed

MODEL_ON_DEVICE = ("model", "device")

WAITS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
AUDIO_S = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 180, 600, 1800, 3600, 10_800)
RATIOS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)

NO_REASON = "none"


class CardMeasures:
    """The figures of one card's process; safe between threads.

    Attributes:
        registry: Has all of them.
    """

    def __init__(self, device: str) -> None:
        """Begin at zero.

        Args:
            device: The card's name, such as `npu:0`.
        """
        self._device = device
        self.registry = CollectorRegistry()
        self._running = self._gauge("num_requests_running", "Jobs that hold a slot of their model.")
        self._slots = self._gauge("slots", "Jobs that a model performs at once.")
        self._attempts = self._counter("attempts", "Attempts that ended, by what became of them.", "outcome")
        self._failed = self._counter(
            "requests_failed", "Jobs that were discarded here, by error code.", "reason"
        )
        self._retries = self._counter("retries", "Attempts that failed and will be repeated.", "reason")
        self._phases = self._counter("phase_seconds", "Time that attempts spent in each phase.", "phase")
        self._audio = self._counter("audio_seconds", "Audio that was made or read by completed jobs.")
        self._wait = self._histogram(
            "request_queue_wait_seconds", "From when a job may run to its claim.", WAITS_S
        )
        self._latency = self._histogram(
            "e2e_request_latency_seconds", "From when a job may run to its end, of completed ones.", WAITS_S
        )
        self._duration = self._histogram(
            "audio_duration_seconds", "Length of the audio of completed jobs.", AUDIO_S
        )
        self._rtf = self._histogram(
            "audio_rtf", "Time of a completed job over the length of its audio.", RATIOS
        )
        self._refused = Counter(
            "soundmill_messages_refused",
            "Messages of the queues that were no wake-ups.",
            ("device", "reason"),
            registry=self.registry,
        )

    def serves(self, model: str, slots: int) -> None:
        """A model is loaded; its series begin at zero, so that the first event of each is seen as one."""
        labels = (model, self._device)
        self._slots.labels(*labels).set(slots)
        self._running.labels(*labels).set(0)
        self._audio.labels(*labels)
        for outcome in ("completed", "failed", "discarded"):
            self._attempts.labels(*labels, outcome)

    @contextmanager
    def running(self, model: str) -> Iterator[None]:
        """A job holds a slot until the block ends."""
        gauge = self._running.labels(model, self._device)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def refused(self, reason: str) -> None:
        """A message was no wake-up."""
        self._refused.labels(self._device, reason).inc()

    def ended(
        self,
        job: Claimed,
        outcome: str,
        *,
        code: str | None,
        took_s: float,
        seconds: Mapping[str, float],
        metrics: Mapping[str, Any] | None,
    ) -> None:
        """An attempt came to its end.

        Args:
            job: What was attempted.
            outcome: A word of `soundmill.storage.rows.Attempt.outcome`.
            code: Its error code.
            took_s: From the claim to the settle.
            seconds: What each phase took.
            metrics: Those of the job, if it completed.
        """
        labels = (job.model, self._device)
        self._attempts.labels(*labels, outcome).inc()
        wait_s = max(job.started_at - job.available_at, 0.0)
        self._wait.labels(*labels).observe(wait_s)
        for phase, spent in seconds.items():
            self._phases.labels(*labels, phase).inc(spent)
        if outcome == "discarded":
            self._failed.labels(*labels, code or NO_REASON).inc()
        elif outcome == "failed":
            self._retries.labels(*labels, code or NO_REASON).inc()
        elif outcome == "completed":
            self._latency.labels(*labels).observe(wait_s + took_s)
            self._hear(labels, metrics or {})

    def _hear(self, labels: tuple[str, str], metrics: Mapping[str, Any]) -> None:
        audio_s, rtf = metrics.get("audio_s"), metrics.get("real_time_factor")
        if isinstance(audio_s, float | int) and audio_s >= 0:
            self._audio.labels(*labels).inc(audio_s)
            self._duration.labels(*labels).observe(audio_s)
        if isinstance(rtf, float | int):
            self._rtf.labels(*labels).observe(rtf)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"soundmill_{name}", words, MODEL_ON_DEVICE, registry=self.registry)

    def _counter(self, name: str, words: str, *more: str) -> Counter:
        return Counter(f"soundmill_{name}", words, (*MODEL_ON_DEVICE, *more), registry=self.registry)

    def _histogram(self, name: str, words: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"soundmill_{name}", words, MODEL_ON_DEVICE, buckets=bounds, registry=self.registry)


class ProcessCollector(Collector):
    """What the process takes of its host, and what its engine counted: read when somebody looks."""

    def __init__(self, station: Station, device: str) -> None:
        self._station = station
        self._device = device

    def collect(self) -> Iterator[Metric]:
        """The families, those of an engine without samples where there is none."""
        yield self._simple(
            GaugeMetricFamily, "process_resident_memory_bytes", "Memory of the card's process.", resident()
        )
        yield self._simple(
            CounterMetricFamily,
            "process_cpu_seconds",
            "Processor time of the card's process.",
            time.process_time(),
        )
        engine = self._station.opened_engine
        if engine is not None:
            engine.weigh()  # for the next look: it is done between two steps
        yield from engine_families(Meter() if engine is None else engine.meter, self._device)

    def _simple(self, kind: Any, name: str, words: str, value: float) -> Metric:
        family: Metric = kind(f"soundmill_{name}", words, labels=("device",))
        family.add_metric((self._device,), value)  # type: ignore[attr-defined]
        return family


def engine_families(meter: Meter, device: str) -> Iterator[Metric]:
    """The figures of an engine as metrics."""
    busy = CounterMetricFamily(
        "soundmill_device_busy_seconds", "Time that the device worked for a model.", labels=MODEL_ON_DEVICE
    )
    sizes = HistogramMetricFamily(
        "soundmill_batch_size", "Rows of each step, or items of each call.", labels=MODEL_ON_DEVICE
    )
    padding = HistogramMetricFamily(
        "soundmill_batch_padding_ratio",
        "Part of each call that was computed for nobody.",
        labels=MODEL_ON_DEVICE,
    )
    for name, figures in list(meter.lanes.items()):
        labels = (name, device)
        busy.add_metric(labels, figures.busy_s)
        sizes.add_metric(labels, _buckets(figures.sizes), figures.sizes.total)
        padding.add_metric(labels, _buckets(figures.padding), figures.padding.total)
    yield from (busy, sizes, padding)
    yield from _memory_families(meter, device)


def _memory_families(meter: Meter, device: str) -> Iterator[Metric]:
    words = {
        "total": "Memory of the device.",
        "used": "Memory of the device that is taken, by anybody.",
        "allocated": "Memory that tensors of this process take.",
        "peak": "The most that tensors of this process took.",
    }
    memory = meter.memory
    values = {} if memory is None else {
        "total": memory.total,
        "used": memory.total - memory.free,
        "allocated": memory.allocated,
        "peak": meter.peak,
    }  # fmt: skip
    for name, said in words.items():
        family = GaugeMetricFamily(f"soundmill_device_memory_{name}_bytes", said, labels=("device",))
        if name in values:
            family.add_metric((device,), values[name])
        yield family


def _buckets(of: histogram.Histogram) -> list[tuple[str, float]]:
    bounds = [*(str(float(bound)) for bound in of.bounds), "+Inf"]
    return list(zip(bounds, map(float, accumulate(list(of.counts))), strict=True))
