"""How fast a device reads and writes its memory: what the floor of a step is measured by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..device import Device

_CARD_BYTES, _PROCESSOR_BYTES = 1 << 30, 1 << 28  # far beyond any cache
_COPIES, _TRIES = 10, 4


def copy_speed(device: Device) -> float:
    """Bytes per second, read and written, of a large copy: the best of some tries.

    Called on a thread that the device is bound to. Takes 2 GiB on a card, 512 MiB on a processor, and never more
    than half of what is free.
    """
    import torch

    size = min(_PROCESSOR_BYTES if device.immediate else _CARD_BYTES, device.memory().usable // 4)
    source = torch.zeros(size, dtype=torch.uint8, device=device.torch_device)
    target = torch.empty_like(source)
    copies = 1 if device.immediate else _COPIES
    best = 0.0
    for _ in range(_TRIES):
        device.sync()
        begun = time.perf_counter()
        for _ in range(copies):
            target.copy_(source)
        device.sync()
        best = max(best, 2 * copies * size / (time.perf_counter() - begun))
    return best
