"""A graph of the tests: operations are recorded on a tape and replayed, on any kind of tensor.

It keeps what makes a captured graph treacherous: the capture does not run (whatever it changed is put
back), the replay reads and writes the very tensors of the capture, nothing of the host is computed
again, and a read by the host cannot be recorded. Results are the processor's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .dispatch_audit import is_taken_apart, makes_wait

MAKES_NOTHING_BUT_ROOM = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"}


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: TapeGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_taken_apart(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return self._graph.record(func, args, kwargs or {})


class TapeGraph:
    """A graph that holds calls instead of kernels."""

    def __init__(self) -> None:
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.replays = 0

    @property
    def launches(self) -> int:
        """How many operations it holds."""
        return len(self._calls)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what runs in the block, and undo what it changed."""
        try:
            with _Recorder(self):
                yield
        finally:
            for raw, before in self._before.values():
                raw.untyped_storage().copy_(before.untyped_storage())
            self._before.clear()

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call for the sake of its result's shape, and put it on the tape."""
        name = func._schema.name.partition("::")[2]
        if makes_wait(func, args, kwargs):
            raise RuntimeError(f"the host reads a tensor ({name}) within a captured step")
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        if name in {"copy_", "_to_copy"} and len({value.device.type for value in given}) > 1:
            raise RuntimeError(f"{name} moves a tensor between host and card within a captured step")
        self._keep_written(func, args, kwargs)
        made = func(*args, **kwargs)
        if not func.is_view and name not in MAKES_NOTHING_BUT_ROOM:
            self._calls.append((func, args, kwargs, made))
        return made

    def _keep_written(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = kwargs.get(argument.name) if argument.kwarg_only else args[place]
            for tensor in tree_leaves(value):
                raw = getattr(tensor, "raw", tensor)
                key = raw.untyped_storage()._cdata
                if key not in self._before:
                    flat = torch.empty(0, dtype=torch.uint8).set_(raw.untyped_storage())
                    self._before[key] = (raw, flat.clone())

    def replay(self) -> None:
        """Make the calls again, on the same tensors."""
        self.replays += 1
        for func, args, kwargs, made in self._calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)

    def reset(self) -> None:
        """Forget everything."""
        self._calls.clear()
