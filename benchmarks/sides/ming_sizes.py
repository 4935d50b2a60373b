"""A configuration of Ming that is small enough for a processor."""

from __future__ import annotations

from soundmill.models.ming.config import MingConfig
from soundmill.models.ming.published import content


def middle() -> MingConfig:
    """Half of the published widths and depths, with the published rates."""
    return MingConfig.parse(content(width=512, depth=4, hidden=448, layers=12, vocabulary=2048))
