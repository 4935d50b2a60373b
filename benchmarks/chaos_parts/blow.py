"""What a fault did: `Blow`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stage import Stage


@dataclass(slots=True, kw_only=True)
class Blow:
    """What a fault did.

    Attributes:
        delivered: Whether it found a victim.
        in_flight: The jobs that were running where it struck.
        victims: The incarnations of the workers that it ended or stopped.
        clock: When recovery could begin; `None`: when the fault was over.
        late_s: How long the victim is given before anything is done about it: a watchdog's limit.
        facts: Whatever else is worth keeping.
    """

    delivered: bool = True
    in_flight: int = 0
    victims: tuple[str, ...] = ()
    clock: float | None = None
    late_s: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


Act = Callable[[Stage, random.Random], Blow]
