"""The memory that this process takes while it is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..device.memory import forget_resident_peak, resident, resident_peak

if TYPE_CHECKING:
    from ..device import Device


class Footprint:
    """Of tensors on a card; of the whole process on a processor, or where no device is open."""

    def __init__(self, device: Device | None) -> None:
        self._device = device

    def now(self) -> int:
        """The bytes taken at this moment."""
        if self._device is None:
            return resident()
        self._device.sync()
        return self._device.memory().allocated

    def forget_peak(self) -> None:
        """Let `peak` count from now on."""
        if self._device is None:
            forget_resident_peak()
        else:
            self._device.reset_peak()

    def peak(self) -> int:
        """The most bytes since then."""
        return resident_peak() if self._device is None else self._device.peak()
