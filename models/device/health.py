"""Whether a card computes: a known answer.

A copy to the card and back proves nothing, since copies still work on a card that drops every kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .device import Device

SIDE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a card answered.

    Attributes:
        ok: Whether all answers were right.
        detail: What was asked, or what is wrong.
    """

    ok: bool
    detail: str


def check(device: Device) -> Health:
    """Ask the card for a product, a sum and a choice whose answers are known.

    The numbers are whole and small, so that every way of computing them is exact, tensor cores
    included: products up to 25, sums up to 1,600.
    """
    import torch

    left = [[(7 * row + 3 * column) % 11 - 5 for column in range(SIDE)] for row in range(SIDE)]
    right = [[(5 * row + 2 * column) % 9 - 4 for column in range(SIDE)] for row in range(SIDE)]
    columns = list(zip(*right, strict=True))
    product = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in left]
    expected = [[3 * value + 1 for value in row] for row in product]
    try:
        a, b = (torch.tensor(side, dtype=torch.float32).to(device.torch_device) for side in (left, right))
        answer = 3 * (a @ b) + 1
        total, largest = answer.sum(), answer.argmax()
        matrix = answer.cpu().tolist()
        answers = (matrix, float(total.cpu()), int(largest.cpu()))
    except RuntimeError as error:
        return Health(ok=False, detail=f"{device} raised {type(error).__name__}: {error}")
    flat = [value for row in expected for value in row]
    if answers != (expected, float(sum(flat)), flat.index(max(flat))):
        return Health(ok=False, detail=f"{device} gave a wrong answer to a matrix product")
    return Health(ok=True, detail=f"{device} multiplies {SIDE} × {SIDE} matrices as it should")
