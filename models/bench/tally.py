"""What several runs of one load gave, as figures; and the refusal of runs that gave nothing."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from ..errors import CardFailed, ModelError
from .figures import Spread, significant, spread
from .footprint import Footprint
from .plan import Load, Plan
from .subject import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One run of a load.

    Attributes:
        seconds: From the first request to the last answer.
        answers: Of those that did not fail.
        failures: What the others raised.
    """

    seconds: float
    answers: Sequence[Answer]
    failures: Sequence[ModelError] = ()

    @property
    def audio_s(self) -> float:
        """What was made or heard by requests that gave something."""
        return sum(answer.audio_s for answer in self.answers if not answer.empty)

    @property
    def frames(self) -> int:
        return sum(answer.frames for answer in self.answers if not answer.empty)


def take_turn(perform: Callable[[int], Answer], requests: int) -> Turn:
    """Make so many requests at once, each from a thread of its own, and wait for all.

    A request that fails with an error of its own is counted; what concerns the card ends the measurement.
    """
    answers: list[Answer] = []
    failures: list[ModelError] = []
    together = threading.Barrier(requests + 1)

    def ask(number: int) -> None:
        together.wait()  # none is ahead of the others by the start of their threads
        try:
            answers.append(perform(number))
        except ModelError as error:
            if isinstance(error, CardFailed):
                raise
            failures.append(error)

    with ThreadPoolExecutor(requests) as pool:
        asked = [pool.submit(ask, number) for number in range(requests)]
        together.wait()
        begun = perf_counter()
        for done in asked:
            done.result()
    return Turn(seconds=perf_counter() - begun, answers=answers, failures=failures)


class NothingMade(Exception):
    """A run of which nothing came out, which says nothing about speed. Look at the sentence of the failures."""


def cells_of(
    plan: Plan,
    turn: Callable[[Load], Turn],
    *,
    unit: str,
    footprint: Footprint,
    floor_ms: float | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Measure every load of a plan.

    Args:
        plan: Says which, and how often.
        turn: Runs a load once.
        unit: What a step makes.
        footprint: Of this process.
        floor_ms: The least that a step can take, where that is known.
        tell: Told of the progress.

    Returns:
        `cells`, the figures of each load, and `refused`, the loads of which nothing came out, with the reason.

    Raises:
        NothingMade: No load gave anything.
    """
    cells: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for load in plan.loads():
        tell(str(load))
        for _ in range(plan.warmup):
            turn(load)
        footprint.forget_peak()
        turns = [turn(load) for _ in range(plan.runs)]
        try:
            figures = figures_of(load, turns, unit=unit, floor_ms=floor_ms)
        except NothingMade as error:
            refused.append({"load": asdict(load), "reason": str(error)})
            tell(str(error))
        else:
            cells.append(figures | {"peak_bytes": footprint.peak()})
    if not cells:
        raise NothingMade(refused[0]["reason"])
    return {"cells": cells, "refused": refused}


def figures_of(load: Load, turns: Sequence[Turn], *, unit: str, floor_ms: float | None) -> dict[str, Any]:
    """What is told of a load.

    Args:
        load: What was run.
        turns: Those that count, at least one.
        unit: As in `cells_of`, and so is `floor_ms`.
        floor_ms: See there.

    Raises:
        NothingMade: No request of some run gave anything.
    """
    for turn in turns:
        if not any(not answer.empty for answer in turn.answers):
            raise NothingMade(_why(turn))
    answers = [answer for turn in turns for answer in turn.answers if not answer.empty]
    steps = [answer.step_ms for answer in answers if answer.step_ms is not None]
    firsts = [_median(turn, lambda answer: answer.first_s) for turn in turns]
    told: dict[str, Any] = {
        "load": asdict(load) | {"requests": load.slots},
        "wall_s": spread([turn.seconds for turn in turns]),
        "audio_s_per_s": _rate(turns, lambda turn: turn.audio_s),
        "real_time_factor": _per_row(turns),
        f"{unit}_per_s": _rate(turns, lambda turn: float(turn.frames))
        if any(t.frames for t in turns)
        else None,
        "files_per_s": _rate(turns, lambda turn: float(len(turn.answers))),
        "first_s": None if None in firsts else spread([first for first in firsts if first is not None]),
        "step_ms": None if not steps else spread([_step(turn) for turn in turns]),
        "times_the_floor": None,
        "batch_size": max(answer.batch_size for answer in answers),
        "bucket": max((answer.bucket for answer in answers if answer.bucket is not None), default=None),
        "audio_s": significant(statistics.mean(answer.audio_s for answer in answers)),
        "failed": sum(len(turn.failures) for turn in turns),
        "empty": sum(answer.empty for turn in turns for answer in turn.answers),
        "failure": next((str(error) for turn in turns for error in turn.failures), None),
    }
    if floor_ms is not None and steps:
        told["times_the_floor"] = significant(told["step_ms"]["median"] / floor_ms)
    return told


def partly_failed(cells: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some requests failed or gave nothing."""
    return any(cell["failed"] or cell["empty"] for cell in cells)


def _rate(turns: Sequence[Turn], amount: Callable[[Turn], float]) -> Spread:
    return spread([amount(turn) / turn.seconds for turn in turns])


def _per_row(turns: Sequence[Turn]) -> Spread | None:
    """Seconds of waiting for each second of a request's own audio; `None` where there is no audio."""
    if any(turn.audio_s == 0 for turn in turns):
        return None
    return spread([turn.seconds * len(turn.answers) / turn.audio_s for turn in turns])


def _step(turn: Turn) -> float:
    return statistics.median(answer.step_ms for answer in turn.answers if answer.step_ms is not None)


def _median(turn: Turn, of: Callable[[Answer], float | None]) -> float | None:
    values = [value for answer in turn.answers if (value := of(answer)) is not None]
    return statistics.median(values) if values else None


def _why(turn: Turn) -> str:
    if turn.failures:
        return f"all {len(turn.failures)} requests failed; the first: {turn.failures[0]}"
    return (
        f"{len(turn.answers)} requests gave nothing: no frame, no word, or silence. Nothing is reported of such "
        "a run, since it says nothing about speed; try other texts or arguments, or verify the model first"
    )
