"""Rows of the engine beside transformers' own `generate`, in turns: the kind `generate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import ModelUnavailable
from .figures import in_turns, ratios, significant, spread
from .results import heading, sizes
from .session import Gate, Opened, Tell, opened, source_of
from .subject import Answer
from .tally import NothingMade, Turn, take_turn

if TYPE_CHECKING:
    from .plan import Load, Plan

OURS, THEIRS = "engine", "generate"


class Generating(Protocol):
    """`generate` of transformers on the weights of a subject.

    Attributes:
        copies: How often the weights lie on the card while both sides are there.
    """

    copies: int

    def load(self, held: Opened) -> None:
        """Make what it needs; the subject's weights are loaded. On the engine's thread."""

    def run(self, load: Load) -> Sequence[Answer]:
        """One call for all rows of a load. On the engine's thread."""


def measure_generate(plan: Plan, tell: Tell, gate: Gate) -> dict[str, Any]:
    """See `session.measure`. The document has `compared`: both sides of each load, and what is ours ÷ theirs.

    CSM makes codes only on both sides: `generate` can choose ids that its codec does not have, of which random
    weights make many. The captioner hears on both sides, from the spectrum on.
    """
    source = source_of(plan)
    with opened(plan, source) as held:
        theirs = _generating(held)
        _check_room(held, theirs.copies)
        tell("loading both sides")
        load_s = held.load(check=False)
        document = heading(held.plan, held.device, held.dtype) | sizes(held.subject, source)
        held.on_card(lambda: theirs.load(held))
        held.join()
        gate()
        compared = [_compared(held, theirs, load, tell) for load in held.plan.loads()]
        document |= {"load_s": significant(load_s), "compared": compared}
        document["memory"] = {"peak_bytes": held.device.peak()}
    return document


def _generating(held: Opened) -> Generating:
    from .generate import SIDES

    side = SIDES.get(held.plan.model)
    if side is None:
        raise ModelUnavailable(
            f"transformers has no `generate` for {held.plan.model}; there is one for {', '.join(SIDES)}"
        )
    made: Generating = side()
    return made


def _check_room(held: Opened, copies: int) -> None:
    from ..device import short_name
    from ..verification.footprint import check_room

    check_room(copies * held.subject.parameters, short_name(held.dtype), held.device)


def _compared(held: Opened, theirs: Generating, load: Load, tell: Tell) -> dict[str, Any]:
    plan = held.plan
    sides: dict[str, Callable[[], Turn]] = {
        OURS: lambda: take_turn(lambda number: held.subject.perform(held.place, number, load), load.slots),
        THEIRS: lambda: held.on_card(lambda: _generated(theirs, load, held)),
    }
    for name, side in sides.items():
        tell(f"{load}: {name}")
        for _ in range(plan.warmup):
            side()
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for name in in_turns(list(sides), plan.runs):
        turn = sides[name]()
        if turn.failures:
            raise turn.failures[0]
        if any(answer.empty for answer in turn.answers):
            raise NothingMade(f"{name} gave nothing; that says nothing about speed")
        turns[name].append(turn)
    rates = {name: [turn.frames / turn.seconds for turn in taken] for name, taken in turns.items()}
    return {
        "load": asdict(load) | {"requests": load.slots},
        "sides": {name: _side(turns[name], rates[name], held.subject.unit) for name in sides},
        f"{OURS} ÷ {THEIRS}": ratios(rates[OURS], rates[THEIRS]),
        "same_output": _same(turns),
    }


def _generated(theirs: Generating, load: Load, held: Opened) -> Turn:
    held.device.sync()
    begun = time.perf_counter()
    answers = theirs.run(load)
    held.device.sync()
    return Turn(seconds=time.perf_counter() - begun, answers=answers)


def _side(turns: Sequence[Turn], rates: Sequence[float], unit: str) -> dict[str, Any]:
    audio = [turn.audio_s / turn.seconds for turn in turns]
    return {
        f"{unit}_per_s": spread(rates),
        "audio_s_per_s": spread(audio),
        "audio_s": significant(float(np.mean([turn.audio_s for turn in turns]))),
    }


def _same(turns: dict[str, list[Turn]]) -> bool | None:
    """Whether both sides wrote the same ids; `None` where what they draw cannot be compared."""
    ours, theirs = (sorted(_outputs(turns[name][0])) for name in (OURS, THEIRS))
    return ours == theirs if ours else None


def _outputs(turn: Turn) -> list[tuple[int, ...]]:
    return [answer.output for answer in turn.answers if answer.output is not None]
