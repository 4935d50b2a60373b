"""How many operations of torch something asks for, as far as each would be a launch on a card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# They make room, and nothing runs for them.
_ROOM = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "_unsafe_view"}
# One kernel on a card, though a processor makes it of several.
_ONE_KERNEL = {"rms_norm"}
# The result is a value or a size that the host has to wait for.
_READS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2", "masked_select", "item"}


class Launches(TorchDispatchMode):
    """Counts while its context lasts.

    Attributes:
        count: Operations that compute or copy; views and mere allocations are none.
        reads: Those for whose result the host waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        composite = "CompositeImplicitAutograd"
        if name in _ONE_KERNEL:
            self.count += 1
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), composite):
            with self:  # in inference mode a composite arrives whole: count what it is made of
                return func.decompose(*args, **kwargs)
        self.reads += name in _READS
        self.count += not func.is_view and name not in _ROOM and name not in _READS
        return func(*args, **kwargs)


def per_frame(few: Callable[[], None], many: Callable[[], None], frames: int) -> dict[str, float]:
    """Launches and reads of one frame: what `many` does more than `few`, by the `frames` more that it makes."""
    counts = []
    for work in (few, many):
        with Launches() as seen:
            work()
        counts.append((seen.count, seen.reads))
    (a, b), (c, d) = counts
    return {"launches": round((c - a) / frames, 1), "host_reads": round((d - b) / frames, 2)}
