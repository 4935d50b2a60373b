"""The processor of the host behind the functions by which torch speaks to an accelerator."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .memory import forget_resident_peak, host_memory, resident, resident_peak


class Processor:
    """What `torch.cuda` and `torch.npu` are for their cards; everything is done when it returns.

    All cards of this kind are the same host, so that the number of the card means nothing here.
    """

    def __init__(self, threads: int | None) -> None:
        """Compute with so many threads; `None` leaves the number to torch."""
        self._threads = threads

    def set_device(self, _: int) -> None:
        """Set the number of threads; torch keeps it for each thread that asks for work."""
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)

    @contextmanager
    def limited(self, most: int) -> Iterator[None]:
        """Compute with no more than so many threads in the block."""
        import torch

        before = torch.get_num_threads()
        if before <= most:
            yield
            return
        torch.set_num_threads(most)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def synchronize(self, _: int) -> None:
        """Nothing runs behind our back."""

    def empty_cache(self) -> None:
        """The C library keeps its own counsel."""

    def mem_get_info(self, _: int) -> tuple[int, int]:
        return host_memory()

    def memory_allocated(self, _: int) -> int:
        return resident()

    memory_reserved = memory_allocated

    def max_memory_allocated(self, _: int) -> int:
        return resident_peak()

    def reset_peak_memory_stats(self, _: int) -> None:
        forget_resident_peak()

    def memory_stats(self, _: int) -> dict[str, Any]:
        return {}

    def get_device_name(self, _: int) -> str:
        """Its model, where the kernel knows it."""
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
        return platform.machine()
