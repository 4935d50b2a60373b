"""Errors that are planted into copies of the tiny checkpoints, and one reference for all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from soundmill.models.verification.seats import Asked
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
    from soundmill.models.verification.comparison import Comparison
    from soundmill.models.verification.seats import Seat, opened, seated

    found: list[Line] = []
    with opened(Seat(card=card, threads=1 if card == "cpu" else None)) as device:
        with seated(_module(family), folder, device, device.dtype(dtype), _silent) as loaded:
            if not free_run:
                loaded.components = [part for part in loaded.components if part.name != "free run"]
            Comparison(_asked(family), "rounding", _silent).lines(loaded, found)
    return found


@cache
def _asked(family: str) -> Mapping[str, Asked]:
    from soundmill.models.verification.material import gather
    from soundmill.models.verification.seats import Seat, ask_reference, opened, seated

    with TemporaryDirectory() as scratch, opened(Seat(card="cpu", threads=1)) as device:
        with seated(_module(family), FOLDERS[family], device, device.dtype("fp32"), _silent) as loaded:
            asked = ask_reference(loaded, gather(Path(scratch)), _silent)
    assert {name: one.failure for name, one in asked.items() if one.failure} == {}
    return asked


def _module(family: str) -> Any:
    module: Any = import_module(f"soundmill.models.{family}.components")
    if family == "csm":
        module.FRAMES = 4  # each is 31 turns of a loop; a person who verifies a card has more of them
    return module


def _silent(_: str) -> None:
    """Nobody waits for these."""
