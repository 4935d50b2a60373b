"""Rows of a fixed number of frames through the engine: the kind `rows`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bandwidth import copy_speed
from .figures import significant
from .footprint import Footprint
from .results import heading, sizes
from .session import Gate, Opened, Tell, opened, source_of
from .tally import cells_of, take_turn

if TYPE_CHECKING:
    from .plan import Plan


def measure_rows(plan: Plan, tell: Tell, gate: Gate) -> dict[str, Any]:
    """See `session.measure`. The document has the `cells` that were measured, and those `refused` with a reason."""
    source = source_of(plan)
    with opened(plan, source) as held:
        tell(f"{held.subject.parameters / 1e6:.1f} million parameters, loading")
        load_s = held.load()
        document = heading(held.plan, held.device, held.dtype) | sizes(held.subject, source)
        footprint = Footprint(held.device)
        loaded_bytes = footprint.now()
        speed = held.on_card(lambda: copy_speed(held.device))
        floor = _floor(held, speed)
        open_s = held.join()
        document |= {
            "load_s": significant(load_s),
            "open_s": significant(open_s),
            "memory": {"loaded_bytes": loaded_bytes, "opened_bytes": footprint.now()},
            "floor": floor,
        }
        gate()
        document |= cells_of(
            held.plan,
            lambda load: take_turn(lambda number: held.subject.perform(held.place, number, load), load.slots),
            unit=held.subject.unit,
            footprint=footprint,
            floor_ms=None if floor is None else floor["step_ms"],
            tell=tell,
        )
    document["memory"]["peak_bytes"] = max(cell["peak_bytes"] for cell in document["cells"])
    return document


def _floor(held: Opened, speed: float) -> dict[str, float] | None:
    """The least time of a step: that of reading its weights once, at the speed of a copy."""
    size = held.subject.step_bytes()
    if size is None:
        return None
    return {
        "weights_bytes": size,
        "copy_bytes_per_s": significant(speed),
        "step_ms": significant(1000 * size / speed),
    }
