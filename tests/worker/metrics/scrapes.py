"""Reading what a Prometheus would read."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, tuple[tuple[str, str], ...]]


class Scrape:
    """The samples of one answer, by name and labels."""

    def __init__(self, text: str) -> None:
        """Read the text format; a family that appears twice is an error."""
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families), text
        self.families = {family.name: family for family in families}
        self.values: dict[Key, float] = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    @classmethod
    def of(cls, registry: CollectorRegistry) -> Scrape:
        """What a registry would serve."""
        return cls(generate_latest(registry).decode())

    @classmethod
    def at(cls, url: str) -> Scrape:
        """What a server serves."""
        with urllib.request.urlopen(url, timeout=30) as answer:
            return cls(answer.read().decode())

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of a sample; `None` if there is none."""
        return self.values.get((f"soundmill_{name}", tuple(sorted(labels.items()))))

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels among theirs."""
        return sum(
            value
            for (found, theirs), value in self.values.items()
            if found == f"soundmill_{name}" and labels.items() <= dict(theirs).items()
        )


def names_of(families: Iterable[Metric]) -> set[str]:
    """The names under which samples of these families are found."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
    return {family.name + suffix for family in families for suffix in suffixes.get(family.type, ("",))}
