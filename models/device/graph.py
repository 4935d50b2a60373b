"""A step that is launched as one graph where the device can, and call by call where it cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .faults import Fault, classify

if TYPE_CHECKING:
    import torch

    from .device import Device

logger = logging.getLogger(__name__)

WARM_CALLS = 2
"""Calls before a capture: libraries choose their kernels and take their workspaces in the first ones."""


class GraphPool:
    """Memory that several graphs share, for those of which one runs at a time, such as a step's buckets.

    What one of them returned is overwritten when another of them runs.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._handle: Any = None

    @property
    def handle(self) -> Any:
        """The vendor's token, made at the first capture."""
        if self._handle is None:
            self._handle = self._device.api.graph_pool_handle()
        return self._handle


class StepGraph:
    """A function of tensors whose kernels are recorded once and launched together ever after.

    A caller sees no difference between the devices. The function keeps to these rules, which cost
    nothing where nothing is captured:

    - It takes tensors of constant shape and dtype, on the device, and returns tensors (or nothing).
    - What it changes are tensors that stay where they are: caches and states, written in place. It
      changes nothing on the host, where it does not run once it is captured.
    - No value of the host decides what it does, and it waits for nothing: no `.item()`, no `if
      tensor`, no `nonzero`, no boolean index.

    What it returns may be overwritten by the next call of this or another graph of its pool. It runs
    in `torch.inference_mode`. One thread only, the engine's.

    The first calls run call by call, which is also the warm-up; the next one is captured, which does
    not run it, and replayed. So every call is exactly one step of whatever state the function keeps,
    and a graph can be made while rows run. `capture` does it all before the first request.
    """

    def __init__(
        self,
        device: Device,
        function: Callable[..., Any],
        *,
        enabled: bool = True,
        pool: GraphPool | None = None,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            device: Where its tensors are.
            function: See above.
            enabled: Whether to capture where the device can (`Device.graphs` reads the option).
            pool: Memory to share with other graphs.
        """
        self._device = device
        self._function = function
        self._pool = pool
        self._wanted = enabled and device.caps.graphs
        self._calls = 0
        self._graph: Any = None
        self._inputs: tuple[torch.Tensor, ...] = ()
        self._output: Any = None

    @property
    def captured(self) -> bool:
        """Whether calls are replays."""
        return self._graph is not None

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Run the function, in whichever way."""
        import torch

        with torch.inference_mode():
            if self._wanted and self._graph is None and self._calls >= WARM_CALLS:
                self._record(inputs)
            if self._graph is None:
                self._calls += 1
                return self._warm(inputs) if self._wanted else self._function(*inputs)
            for kept, given in zip(self._inputs, inputs, strict=True):
                kept.copy_(given, non_blocking=True)
            self._graph.replay()
            return self._output

    def capture(self, *inputs: torch.Tensor) -> None:
        """Warm up and capture now. The function runs: call it while its state is nobody's."""
        while self._wanted and self._graph is None:
            self(*inputs)

    def reset(self) -> None:
        """Forget the graph and give its memory back; the next calls warm up and capture again.

        To be called when tensors that the function uses have moved.
        """
        if self._graph is not None:
            self._device.sync()
            self._graph.reset()
        self._graph, self._inputs, self._output, self._calls = None, (), None, 0

    def _warm(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        """Run once on the stream of the capture, whose workspaces are its own."""
        api, stream = self._device.api, self._device.capture_stream()
        stream.wait_stream(api.current_stream())
        with api.stream(stream):
            output = self._function(*inputs)
        # That stream's memory is given out again on it alone, which waits for this one first.
        api.current_stream().wait_stream(stream)
        return output

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        graph = self._device.new_graph()
        kept = tuple(given.clone() for given in inputs)
        pool = None if self._pool is None else self._pool.handle
        try:
            # Other threads may copy to the card meanwhile: only what this one does must be recordable.
            with self._device.api.graph(
                graph, pool=pool, stream=self._device.capture_stream(), capture_error_mode="thread_local"
            ):
                output = self._function(*kept)
        except Exception as error:
            if classify(error) != Fault.OTHER and not _unrecordable(error):
                raise
            self._wanted = False
            logger.warning(
                "a step cannot be captured and runs call by call",
                extra={"device": str(self._device), "reason": f"{type(error).__name__}: {error}"},
            )
            return
        self._graph, self._inputs, self._output = graph, kept, output


def _unrecordable(error: BaseException) -> bool:
    """Whether CUDA says that the function does what a graph cannot hold; the device is sound then."""
    text = str(error)
    return "CUDA error: operation not permitted when stream is capturing" in text or (
        "CUDA error: operation failed due to a previous error during capture" in text
    )
