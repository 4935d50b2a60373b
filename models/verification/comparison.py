"""The examined side: the same components with the reference's inputs, and a line for each of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from ..errors import ModelError
from .figures import Figures, compare
from .seats import Asked, Loaded, SeatFailed, Tell
from .verdicts import Line, asked_of, judge, worst_of

if TYPE_CHECKING:
    from .ports import Component, Reading, Tensors

Strictness = Literal["published", "rounding"]
"""Which limits hold: those that others publish, or ours as well."""


class Comparison:
    """Compares seat after seat with what one reference answered."""

    def __init__(self, asked: Mapping[str, Asked], strictness: Strictness, tell: Tell) -> None:
        self._asked = asked
        self._published_only = strictness == "published"
        self._tell = tell

    def lines(self, loaded: Loaded, known: list[Line], *, only: str | None = None) -> None:
        """Ask all components, and append a line for each tensor to `known`.

        Args:
            loaded: The examined side.
            known: Grows as lines are there, so that they are kept when the card fails.
            only: Components of this dtype only; the others were compared before.

        Raises:
            SeatFailed: The card failed; the component at fault has its line.
        """
        for component in loaded.components:
            if only is not None and component.dtype != only:
                continue
            self._tell(f"{loaded.device}: {component.name} in {component.dtype}")
            asked = self._asked.get(component.name)
            try:
                known += self._compared(loaded, component, asked)
            except SeatFailed as error:
                known.append(_failed(component, str(error)))
                raise

    def _compared(self, loaded: Loaded, component: Component, asked: Asked | None) -> list[Line]:
        if asked is None:
            return [_failed(component, "the reference has no such component")]
        if asked.failure is not None:
            return [_failed(component, f"the reference did not answer: {asked.failure}")]
        try:
            answers, seconds = loaded.ask(component, asked.cases)
        except ModelError as error:
            return [_failed(component, str(error))]
        return [self._line(component, asked, answers, tensor, seconds) for tensor in component.readings]

    def _line(
        self,
        component: Component,
        asked: Asked,
        answers: Mapping[str, Tensors],
        tensor: str,
        seconds: float,
    ) -> Line:
        reading = component.readings[tensor]
        cases: dict[str, Figures] = {}
        for name, expected in asked.answers.items():
            reference, examined = expected.get(tensor), answers[name].get(tensor)
            if reference is None or examined is None:
                continue  # a finer part, which one side does not offer
            if not _comparable(reading, tuple(examined.shape), tuple(reference.shape)):
                words = f"its shape is {list(examined.shape)}, and the reference's {list(reference.shape)} ({name})"
                return _failed(component, words, tensor)
            cases[name] = compare(examined, reference, reading, component.spell)
        if not cases:
            return _failed(component, "one of the sides did not give it", tensor)
        limits = (
            ()
            if reading == "tokens"
            else asked_of(component.limits, component.dtype, published_only=self._published_only)
        )
        reasons = judge(cases, limits)
        verdict: Literal["pass", "fail", "reported"] = "fail" if reasons else "pass"
        return Line(
            component=component.name,
            tensor=tensor,
            dtype=component.dtype,
            verdict="reported" if reading == "tokens" else verdict,
            reasons=reasons,
            worst=worst_of(cases),
            cases=cases,
            limits=limits,
            seconds=round(seconds, 6),
            reference_seconds=round(asked.seconds, 6),
        )


def _comparable(reading: Reading, examined: tuple[int, ...], reference: tuple[int, ...]) -> bool:
    if reading == "tokens":
        return examined[1:] == reference[1:]
    return examined == reference


def _failed(component: Component, words: str, tensor: str = "") -> Line:
    return Line(
        component=component.name, tensor=tensor, dtype=component.dtype, verdict="fail", reasons=(words,)
    )
