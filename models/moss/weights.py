"""Tensors of a checkpoint, taken from safetensors by name, with their shapes checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ModelUnavailable
from ..tensor_files import StoredTensor, stored_in

PICKLES = (".bin", ".pt", ".pth", ".ckpt")


class Weights:
    """The tensors of one folder: a `model.safetensors`, or the shards that its index lists.

    They are read one by one, when they are taken: a folder may hold more than is wanted.
    """

    def __init__(self, folder: Path) -> None:
        """Find the files and read their headers.

        Raises:
            ModelUnavailable: There are none, one is missing or damaged, or only a pickle is there.
        """
        self.folder = folder
        self._places: dict[str, Path] = {}
        for file in _files(folder):
            try:
                with safe_open(file, framework="pt") as opened:
                    self._places |= dict.fromkeys(opened.keys(), file)
            except (SafetensorError, OSError) as error:
                raise ModelUnavailable(
                    f"{file} is damaged or truncated ({error}); download it again"
                ) from error

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> frozenset[str]:
        """What all tensors are called."""
        return frozenset(self._places)

    def headers(self) -> dict[str, StoredTensor]:
        """What the files say of all tensors."""
        return stored_in(set(self._places.values()))

    def count(self, names: Iterable[str]) -> int:
        """How many numbers these tensors hold."""
        wanted = set(names)
        numbers = 0
        for file in set(self._places.values()):
            with safe_open(file, framework="pt") as opened:
                shapes = [opened.get_slice(name).get_shape() for name in wanted & set(opened.keys())]
            numbers += sum(map(math.prod, shapes))
        return numbers

    def take(self, *names: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Read a tensor into `dtype`.

        Args:
            names: What it may be called; the first that is there counts.

        Raises:
            ModelUnavailable: It is missing or of another shape.
        """
        name = next((name for name in names if name in self._places), None)
        if name is None:
            raise ModelUnavailable(f"{self.folder} has no tensor {names[0]!r}; the checkpoint is incomplete")
        with safe_open(self._places[name], framework="pt") as opened:
            tensor = opened.get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise ModelUnavailable(
                f"{self._places[name]}: {name} is {list(tensor.shape)}, but config.json asks for {list(shape)}"
            )
        return tensor.to(dtype)

    def check_tied(self, head: str, source: str) -> None:
        """Make sure that two names which stand for one tensor hold the same numbers.

        Raises:
            ModelUnavailable: They differ: the checkpoint is not of this architecture.
        """
        if head not in self._places or source not in self._places:
            return
        with safe_open(self._places[head], framework="pt") as opened:
            one = opened.get_tensor(head)
        with safe_open(self._places[source], framework="pt") as opened:
            other = opened.get_tensor(source)
        if not torch.equal(one, other):
            raise ModelUnavailable(
                f"{self._places[head]}: {head} and {source} should be the same tensor and differ"
            )


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelUnavailable(f"{index} cannot be read; download it again") from error
        files = [folder / shard for shard in shards]
    else:
        files = [folder / "model.safetensors"]
    missing = [file for file in files if not file.is_file()]
    if not missing:
        return files
    if any(file.suffix in PICKLES for file in folder.glob("*")):
        raise ModelUnavailable(
            f"{folder} has its weights in a pickle, which a worker does not open; "
            f"run `soundmill models convert {folder}` once, which leaves safetensors beside it"
        )
    raise ModelUnavailable(f"{missing[0]} is missing; download the checkpoint again")
