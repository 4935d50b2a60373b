"""What an engine counts of its own work: plain numbers, added on the host once per call.

The engine's thread adds, others only read; a reader may see a count of one call more in one number than in
the next, which the next reading mends. Whoever wants the figures in another form (`soundmill.worker.metrics`)
converts them where he reads them, so that a step pays for nothing but the additions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..histogram import Histogram

if TYPE_CHECKING:
    from ..device.memory import Memory

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
"""Bounds for rows or items of one call."""

SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75)
"""Bounds for the part of a call that is padding."""


@dataclass(slots=True)
class LaneFigures:
    """The figures of one model in the engine since it was opened.

    Attributes:
        busy_s: How long the device worked on its turns, as the device tells it.
        sizes: Rows of each step, or items of each call.
        padding: The part of each call that was computed for nobody, 0 to 1.
    """

    busy_s: float = 0.0
    sizes: Histogram = field(default_factory=lambda: Histogram(SIZES))
    padding: Histogram = field(default_factory=lambda: Histogram(SHARES))


class Meter:
    """The figures of an engine.

    Attributes:
        lanes: By the names of its models; a codec behind a slot model counts as `<model>/decoder`.
        memory: Of the device when it was last asked; `None` before that.
        peak: The most bytes that its allocator has held.
    """

    def __init__(self) -> None:
        self.lanes: dict[str, LaneFigures] = {}
        self.memory: Memory | None = None
        self.peak = 0

    def lane(self, name: str) -> LaneFigures:
        """The figures of one model; it keeps them for its own use."""
        return self.lanes.setdefault(name, LaneFigures())
