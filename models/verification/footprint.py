"""What a checkpoint needs in memory, told from headers before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelUnavailable

if TYPE_CHECKING:
    from ..device import Device

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_BESIDE_WEIGHTS = 1.2  # activations, answers, and what the allocator rounds up
_GIB = 1024**3


def parameters_in(files: Iterable[Path]) -> int:
    """How many numbers some safetensors files hold.

    Raises:
        ModelUnavailable: One is damaged.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelUnavailable(f"{file} is damaged or truncated ({error}); download it again") from error
    return total


def needed_bytes(parameters: int, dtype: str) -> int:
    """What so many numbers and the work on them need."""
    return int(parameters * _BYTES[dtype] * _BESIDE_WEIGHTS)


def check_room(parameters: int, dtype: str, device: Device) -> str:
    """Say what loading will need, before it is tried.

    Returns:
        A clause for people: how much is needed and how much is free.

    Raises:
        ModelUnavailable: There is less.
    """
    needed, usable = needed_bytes(parameters, dtype), device.memory().usable
    told = (
        f"{parameters / 1e6:.1f} million parameters need about {needed / _GIB:.1f} GiB on {device} in {dtype}, "
        f"and {usable / _GIB:.1f} GiB are free"
    )
    if needed > usable:
        raise ModelUnavailable(f"{told}; free memory there, or choose another card or host")
    return told
