"""What an exception of a model means for the engine: `Faults`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..device import Fault

if TYPE_CHECKING:
    from ..device import Device

__all__ = ["Fault", "Faults"]


class Faults:
    """Judges what models raise on one device."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def judge(self, error: Exception) -> Fault:
        """Tell memory that ran out from a failure of the request's own.

        Raises:
            CardFailed: It is neither; nothing that runs on the device can be trusted.
        """
        fault = self._device.classify(error)
        if fault in (Fault.FATAL, Fault.CARD):
            raise self.told(error) from error
        if fault == Fault.OOM:
            error.__traceback__ = None  # its frames hold the tensors of the call that failed
            self._device.empty_cache()
        return fault

    def told(self, error: Exception) -> Exception:
        """The error as a handler is to see it: one of ours where it is one of the device."""
        return self._device.failure(error) or error
