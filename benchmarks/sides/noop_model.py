"""The model that does nothing: what remains is the queue itself. Loaded by the setting `plugins`."""

from __future__ import annotations

from dataclasses import dataclass

from soundmill.models.handler import Output, Run
from soundmill.models.place import Place
from soundmill.storage.arguments import Arguments
from soundmill.storage.catalog import Model

SLOTS = 21  # 1.5 messages in hand for each: 32 in flight


class NoopArguments(Arguments):
    """A number that nobody reads."""

    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoopRequest:
    """The same, as the handler sees it."""

    number: int


class Noop:
    """Performs nothing, many at a time."""

    request = NoopRequest
    slots = SLOTS

    def load(self, place: Place) -> None:
        """Nothing to load."""

    def perform(self, request: NoopRequest, run: Run) -> Output:
        """Return at once."""
        return Output(result={})

    def close(self) -> None:
        """Nothing to free."""


MODELS = [
    Model(
        id=name,
        kind="noop",
        title="Nothing, for measuring the queue",
        arguments=NoopArguments,
        handler=f"{__name__}:Noop",
        licence="Apache-2.0",
    )
    for name in ("noop", "noop-idle")
]
