"""How far two answers are from each other, in numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from .ports import Reading

_CHUNK = 1 << 22  # numbers that are compared at a time: logits of a large vocabulary are many


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How an examined tensor compares with the reference's; what does not apply is `None`.

    Attributes:
        size: How many numbers there are.
        unusable: How many of the examined ones are NaN or infinite where the reference's are not, or otherwise infinite.
        relative_error: ‖examined − reference‖ / ‖reference‖, Frobenius.
        cosine: Of both, flattened.
        max_error: The largest absolute difference.
        mean_error: The mean absolute difference.
        within_1_percent: The share whose difference is at most 1 % of the reference's absolute value.
        within_01_percent: The same for 0.1 %.
        agreement: The share of equal argmax (logits) or of equal codes.
        choices: Of how many.
        first_divergence: The first step of a free run that differs; `None` where none does.
        similarity: Of the two texts of a free run by characters, 0 to 1.
    """

    size: int
    unusable: int = 0
    relative_error: float | None = None
    cosine: float | None = None
    max_error: float | None = None
    mean_error: float | None = None
    within_1_percent: float | None = None
    within_01_percent: float | None = None
    agreement: float | None = None
    choices: int = 0
    first_divergence: int | None = None
    similarity: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object, without what does not apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def compare(
    examined: Tensor,
    reference: Tensor,
    reading: Reading,
    spell: Callable[[Tensor], str] | None = None,
) -> Figures:
    """Compare two host tensors of one shape (of `tokens`, the number of steps may differ)."""
    match reading:
        case "tokens":
            return _compare_tokens(examined, reference, spell)
        case "codes":
            return Figures(
                size=reference.numel(),
                agreement=_share(examined == reference),
                choices=reference.numel(),
            )
        case "logits":
            same = examined.argmax(-1) == reference.argmax(-1)
            return _compare_values(examined, reference, agreement=_share(same), choices=same.numel())
        case "values":
            return _compare_values(examined, reference)


def text_similarity(one: str, other: str) -> float:
    """How alike two texts are by characters, 0 to 1 (Ratcliff and Obershelp, 1988)."""
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _compare_tokens(examined: Tensor, reference: Tensor, spell: Callable[[Tensor], str] | None) -> Figures:
    steps = min(len(examined), len(reference))
    equal = (examined[:steps] == reference[:steps]).reshape(steps, reference[:1].numel())
    different = (~equal.all(-1)).nonzero()
    first = int(different[0]) if len(different) else None
    if first is None and len(examined) != len(reference):
        first = steps
    return Figures(
        size=reference.numel(),
        agreement=_share(equal),
        choices=equal.numel(),
        first_divergence=first,
        similarity=None if spell is None else text_similarity(spell(examined), spell(reference)),
    )


def _compare_values(
    examined: Tensor, reference: Tensor, *, agreement: float | None = None, choices: int = 0
) -> Figures:
    sums = _Sums()
    for one, other in zip(
        examined.reshape(-1).split(_CHUNK), reference.reshape(-1).split(_CHUNK), strict=True
    ):
        sums.add(one.double(), other.double())
    return sums.figures(reference.numel(), agreement, choices)


class _Sums:
    """What is added up over the pieces of two tensors, in float64."""

    def __init__(self) -> None:
        self.count = self.unusable = self.within_1 = self.within_01 = 0
        self.squares = self.examined_squares = self.reference_squares = self.product = 0.0
        self.absolute = self.largest = 0.0

    def add(self, examined: Tensor, reference: Tensor) -> None:
        # An infinite logit that stands for "never" is the same on both sides, or wrong.
        usable = examined.isfinite() & reference.isfinite()
        self.unusable += int((~usable & (examined != reference)).sum())
        examined, reference = examined[usable], reference[usable]
        difference = (examined - reference).abs()
        self.count += len(difference)
        self.squares += float(difference.square().sum())
        self.examined_squares += float(examined.square().sum())
        self.reference_squares += float(reference.square().sum())
        self.product += float(examined @ reference)
        self.absolute += float(difference.sum())
        self.largest = max(self.largest, float(difference.max()) if len(difference) else 0.0)
        self.within_1 += int((difference <= 1e-2 * reference.abs()).sum())
        self.within_01 += int((difference <= 1e-3 * reference.abs()).sum())

    def figures(self, size: int, agreement: float | None, choices: int) -> Figures:
        """What came of it; where no number can be compared, as bad as can be."""
        count = max(self.count, 1)
        lengths = (self.examined_squares * self.reference_squares) ** 0.5
        nothing = self.examined_squares == self.reference_squares == 0  # silence is silence
        return Figures(
            size=size,
            unusable=self.unusable,
            relative_error=_ratio(self.squares**0.5, self.reference_squares**0.5),
            cosine=1.0 if nothing else self.product / lengths if lengths else 0.0,
            max_error=self.largest,
            mean_error=self.absolute / count,
            within_1_percent=self.within_1 / count,
            within_01_percent=self.within_01 / count,
            agreement=agreement,
            choices=choices,
        )


def _ratio(error: float, size: float) -> float:
    if size:
        return error / size
    return 1.0 if error else 0.0


def _share(equal: Tensor) -> float:
    return float(equal.double().mean()) if equal.numel() else 1.0


def as_host(tensor: Tensor) -> Tensor:
    """A copy in host memory, floating numbers in fp32 and whole ones in int64."""
    kind = torch.float32 if tensor.is_floating_point() else torch.int64
    return tensor.detach().to("cpu", kind, copy=True)
