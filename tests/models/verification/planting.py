"""Errors that are planted into copies of the tiny checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..verified import lines

if TYPE_CHECKING:
    from torch import Tensor

    from soundmill.models.verification.verdicts import Line

DATA = Path(__file__).resolve().parents[2] / "data"
FOLDERS = {
    "csm": DATA / "csm" / "checkpoint",
    "captioner": DATA / "captioner",
    "aligner": DATA / "aligner" / "checkpoint",
}
WEIGHTS = "model.safetensors"

Change = Callable[["Tensor"], "Tensor"]


def larger(tensor: Tensor) -> Tensor:
    """By 2 %."""
    return tensor * 1.02


def heads_swapped(heads: int) -> Change:
    """The first and the last head of a matrix that makes so many from its input, [heads · D, …]."""

    def swap(tensor: Tensor) -> Tensor:
        order = [heads - 1, *range(1, heads - 1), 0]
        return tensor.unflatten(0, (heads, -1))[order].flatten(0, 1)

    return swap


def with_a_nan(tensor: Tensor) -> Tensor:
    """One number is none."""
    spoiled = tensor.clone()
    spoiled.view(-1)[0] = float("nan")
    return spoiled


def planted(family: str, to: Path, changes: Mapping[str, Change]) -> Path:
    """A copy of a family's checkpoint in which some tensors are changed."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(FOLDERS[family], to)
    tensors = load_file(to / WEIGHTS)
    for name, change in changes.items():
        tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, to / WEIGHTS, metadata={"format": "pt"})
    return to


def lines_of(
    family: str, folder: Path, dtype: str = "fp32", *, card: str = "cpu", free_run: bool = False
) -> list[Line]:
    """A checkpoint beside the family's own one, which is on the processor.

    Args:
        card: Of the examined one.
        free_run: Whether free runs, which are not judged, take part.
    """
    if family == "csm":  # each frame is 31 turns of a loop; a person who verifies a card has more of them
        import_module("soundmill.models.csm.components").FRAMES = 4  # type: ignore[attr-defined]
    return lines(
        family, FOLDERS[family], folder, dtype=dtype, card=card, without=() if free_run else ("free run",)
    )
