"""What each layer adds to its input: a line that fails for `layer 3` says more than one for all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from .ports import Reading


def values(names: Iterable[str]) -> Mapping[str, Reading]:
    """Tensors that are judged as numbers."""
    return dict.fromkeys(names, "values")


def layer_names(count: int) -> tuple[str, ...]:
    """What the tensors of so many layers are called."""
    return tuple(f"layer {number}" for number in range(count))


class Taps:
    """The updates of layers, kept while `recording` runs; several calls are joined along the positions."""

    def __init__(self, layers: Iterable[Any]) -> None:
        """Take modules that map hidden states `[1, T, D]` to such, alone or as the first of a tuple."""
        self._layers = list(layers)
        self._updates: list[list[Tensor]] = [[] for _ in self._layers]

    @property
    def names(self) -> tuple[str, ...]:
        """What the tensors are called."""
        return layer_names(len(self._layers))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record, anew."""
        self._updates = [[] for _ in self._layers]
        hooks = [
            layer.register_forward_hook(self._keep(number), with_kwargs=True)
            for number, layer in enumerate(self._layers)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def taken(self) -> dict[str, Tensor]:
        """`[T, D]` by the name of each layer; they are not kept any longer."""
        updates, self._updates = self._updates, []
        return {name: torch.cat(parts) for name, parts in zip(self.names, updates, strict=True)}

    def _keep(self, number: int) -> Any:
        def hook(_: Any, given: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
            before = given[0] if given else named["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            self._updates[number].append((after - before).flatten(0, -2))

        return hook
