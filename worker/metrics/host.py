"""What a supervisor serves: the numbers of its cards' processes under one roof, and what it counts itself."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from .shared import FiguresReader


class HostMeasures:
    """The figures of a supervisor; safe between threads.

    Attributes:
        registry: Has them, and those of the cards.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._cards = CardsCollector()
        self.registry.register(self._cards)
        self._up = Gauge(
            "soundmill_card_up", "Whether the process of a card runs.", ["device"], registry=self.registry
        )
        self._restarts = Counter(
            "soundmill_card_restarts", "Ends of a card's process, by how it ended.", ["device", "reason"],
            registry=self.registry,
        )  # fmt: skip
        self._rescues = Counter(
            "soundmill_lease_rescues", "Jobs that were taken back from a worker, by why.", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self._late = Counter(
            "soundmill_requests_expired", "Jobs that waited past their deadline.", registry=self.registry
        )
        self._messages = Counter(
            "soundmill_messages_published", "Messages that the dispatcher sent.", registry=self.registry
        )
        self._repeated = Counter(
            "soundmill_messages_repeated", "Messages that were lost, and sent again.", registry=self.registry
        )
        self._leads = Gauge(
            "soundmill_dispatcher_leads",
            "Whether this supervisor dispatches for all hosts.",
            registry=self.registry,
        )
        self._broker_restarts = Counter(
            "soundmill_broker_restarts", "Ends of the embedded broker.", registry=self.registry
        )
        Info("soundmill_build", "What runs here.", registry=self.registry).info(
            {"version": metadata.version("soundmill")}
        )
        for reason in ("expired", "crashed", "killed"):
            self._rescues.labels(reason)

    def card(self, device: str) -> FiguresReader:
        """Where the processes of a card leave their numbers."""
        reader = FiguresReader()
        self._cards.readers[device] = reader
        return reader

    def started(self, device: str) -> None:
        """A card's process was started."""
        self._up.labels(device).set(1)

    def ended(self, device: str, reason: str | None) -> None:
        """A card's process is gone; `None` as a reason: it was told to go."""
        self._up.labels(device).set(0)
        if reason is not None:
            self._restarts.labels(device, reason).inc()

    def rescued(self, reason: str, jobs: int) -> None:
        """Jobs are available again whose lease `expired`, or whose worker `crashed` or was `killed`."""
        self._rescues.labels(reason).inc(jobs)

    def expired(self, jobs: int) -> None:
        """Jobs were discarded that waited past their deadline."""
        self._late.inc(jobs)

    def published(self, messages: int) -> None:
        """The dispatcher sent messages."""
        self._messages.inc(messages)

    def repeated(self, messages: int) -> None:
        """Some of them for the second time."""
        self._repeated.inc(messages)

    def leads(self, leading: bool) -> None:
        """Whether this supervisor leads."""
        self._leads.set(leading)

    def broker_restarted(self) -> None:
        """The embedded broker had ended."""
        self._broker_restarts.inc()


class CardsCollector(Collector):
    """The families of all cards' processes, each once, with the samples of all of them.

    Attributes:
        readers: By the names of the cards.
    """

    def __init__(self) -> None:
        self.readers: dict[str, FiguresReader] = {}

    def describe(self) -> list[Metric]:
        """Nothing is known before a card tells it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Put together what the cards' processes left."""
        together: dict[str, Metric] = {}
        for reader in list(self.readers.values()):
            for family in reader.read():
                together.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                together[family.name].samples += family.samples
        yield from together.values()
