"""The model that does nothing: what remains is the queue itself. Loaded by the setting `plugins`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from soundmill.models.handler import Output, OutputFile, Run
from soundmill.models.place import Place
from soundmill.storage.arguments import Arguments
from soundmill.storage.catalog import Model

SLOTS = 21  # 1.5 messages in hand for each: 32 in flight


class NoopArguments(Arguments):
    """A number that nobody reads, and how many bytes to write into a file."""

    number: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoopRequest:
    """The same, as the handler sees it."""

    number: int
    size: int


class Noop:
    """Performs nothing, or next to nothing, many at a time."""

    request = NoopRequest
    slots = SLOTS

    def load(self, place: Place) -> None:
        """Nothing to load."""

    def perform(self, request: NoopRequest, run: Run) -> Output:
        """Return at once, or after writing a file that no other job has."""
        if not request.size:
            return Output(result={})
        path = run.scratch / "noise.bin"
        path.write_bytes(os.urandom(request.size))
        file = OutputFile(name=path.name, path=path, media_type="application/octet-stream", role="noise")
        return Output(result={}, files=(file,))

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
