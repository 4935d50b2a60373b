"""Values on their way from the device to the host: `HostRead`, and `Flags` for a step's stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class HostRead:
    """A tensor that is being copied to the host while the device goes on.

    What is launched after it cannot change what it brings, so that a step may overwrite its outputs
    at once. Reading it a step late means that nothing is ever waited for.
    """

    def __init__(self, tensor: torch.Tensor, api: Any | None) -> None:
        """Start the copy.

        Args:
            tensor: On the device; of any shape.
            api: The vendor's module, or `None` where the tensor is in host memory already.
        """
        import torch

        self._event: Any = None
        if api is None:
            self._host = tensor.detach().clone()
            return
        # torch keeps pinned memory for reuse, and gives it out again only after the copy is done.
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype).pin_memory()
        self._host.copy_(tensor.detach(), non_blocking=True)
        self._event = api.Event()
        self._event.record()

    def ready(self) -> bool:
        """Whether `wait` would return at once."""
        return self._event is None or bool(self._event.query())

    def wait(self) -> torch.Tensor:
        """Wait for the copy, and return it: a tensor in host memory, which is the caller's."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._host


class Flags:
    """The stop flags of one step; the `Stops` of the engine's ports.

    Args:
        read: Of the flags [B], bool or numbers that are 0 for a row that goes on.
    """

    __slots__ = ("_read",)

    def __init__(self, read: HostRead) -> None:
        self._read = read

    def read(self) -> Sequence[bool]:
        """Wait for the step, and return the flag of each slot."""
        return [bool(flag) for flag in self._read.wait().tolist()]
