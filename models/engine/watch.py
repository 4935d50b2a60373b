"""What the engine tells the watchdog, and how long each of its phases may last."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

WHO = "engine"


class Watch(Protocol):
    """Somebody who ends the process when the block takes longer than it may."""

    def watching(self, who: object, limit_s: float) -> AbstractContextManager[None]:
        """Watch until the block ends."""


class NobodyWatches:
    """A watch for people without a worker."""

    def watching(self, who: object, limit_s: float) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The longest that one call of each phase may take, in seconds.

    Attributes:
        load: Loading the weights of a model.
        warm_up: The first calls of a model in all its sizes, captures of graphs among them.
        prefill: A turn of at most 1,024 positions.
        step: A step, and waiting for its flags.
        decode: A call of a batch model.
    """

    load: float = 600.0
    warm_up: float = 600.0
    prefill: float = 60.0
    step: float = 60.0
    decode: float = 60.0
