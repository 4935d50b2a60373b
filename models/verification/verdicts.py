"""What the figures of a component mean: `Line`, one for each tensor that it answers with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any, Literal

from .figures import Figures
from .limits import GENERAL, Limits

Verdict = Literal["pass", "fail", "reported"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the table.

    Attributes:
        component: Its name.
        tensor: Which of its answers; empty where it gave none.
        dtype: What the examined side computed in.
        verdict: `reported` is never judged.
        reasons: What is wrong, each a clause that says how much and how much is allowed.
        worst: The figures of the case with the largest error.
        cases: The figures of each case.
        limits: What was asked for.
        seconds: How long the examined side took for all cases of the component, its first run included.
        reference_seconds: How long the reference took.
    """

    component: str
    tensor: str
    dtype: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    worst: Figures | None = None
    cases: Mapping[str, Figures] = field(default_factory=dict)
    limits: Sequence[Limits] = ()
    seconds: float | None = None
    reference_seconds: float | None = None

    @property
    def name(self) -> str:
        """Component and tensor, as a person says it."""
        return f"{self.component}: {self.tensor}" if self.tensor else self.component

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {
            "component": self.component,
            "tensor": self.tensor,
            "dtype": self.dtype,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "worst": None if self.worst is None else self.worst.as_json(),
            "cases": {name: figures.as_json() for name, figures in self.cases.items()},
            "limits": [asdict(limits) for limits in self.limits],
            "seconds": self.seconds,
            "reference_seconds": self.reference_seconds,
        }


def asked_of(
    own: Mapping[str, Sequence[Limits]], dtype: str, *, published_only: bool = False
) -> Sequence[Limits]:
    """The limits of a component in a dtype: its own, or the general ones."""
    limits = own.get(dtype, GENERAL[dtype])
    published = [each for each in limits if each.published]
    return published if published_only and published else limits


def judge(cases: Mapping[str, Figures], limits: Iterable[Limits]) -> tuple[str, ...]:
    """What is wrong with a tensor, if anything.

    Errors are judged case by case, since a long case would hide what is wrong with a short one; agreement over
    all cases, since a short one has few choices.
    """
    found = [
        f"{figures.unusable} of {figures.size} numbers are NaN or infinite ({name})"
        for name, figures in cases.items()
        if figures.unusable
    ]
    limits = list(limits)
    errors = {name: figures.relative_error for name, figures in cases.items()}
    worst = max(errors, key=lambda name: _badness(errors[name]))
    if (error := errors[worst]) is not None:
        missed = [
            f"{each.relative_error:.2%} ({each.name})" for each in limits if not error < each.relative_error
        ]
        if missed:
            found.append(f"relative error {error:.2%} in {worst}; allowed is below {', '.join(missed)}")
    cosines = {name: figures.cosine for name, figures in cases.items() if figures.cosine is not None}
    if cosines:
        worst = min(cosines, key=lambda name: cosines[name])
        missed = [f"{each.cosine} ({each.name})" for each in limits if not cosines[worst] > each.cosine]
        if missed:
            found.append(f"cosine {cosines[worst]:.6f} in {worst}; allowed is above {', '.join(missed)}")
    return (*found, *_disagreement(cases, limits))


def _badness(error: float | None) -> float:
    """A number that grows with an error; what is no number is the worst."""
    return -1.0 if error is None else inf if error != error else error


def _disagreement(cases: Mapping[str, Figures], limits: Sequence[Limits]) -> Iterator[str]:
    choices = sum(figures.choices for figures in cases.values())
    if not choices:
        return
    agreement = sum((figures.agreement or 0.0) * figures.choices for figures in cases.values()) / choices
    missed = [f"{each.agreement:.0%} ({each.name})" for each in limits if agreement < each.agreement]
    if missed:
        yield f"agreement {agreement:.2%} of {choices}; allowed is {', '.join(missed)} or more"


def worst_of(cases: Mapping[str, Figures]) -> Figures:
    """The figures of the case that is furthest off."""
    return max(
        cases.values(),
        key=lambda figures: (figures.unusable, figures.relative_error or 0.0, -(figures.agreement or 0.0)),
    )
