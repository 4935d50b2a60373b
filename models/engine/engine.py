"""The engine of one card: its models behind their ports, and the one thread that steps them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import CardFailed, InputError
from .batch_lane import BatchLane
from .loop import Loop
from .meter import Meter
from .opening import open_lanes
from .ports import BatchModel, Generated, Item, SlotModel
from .request import ItemRequest, Request, SlotRequest
from .slot_lane import SlotLane
from .watch import WHO, Limits, NobodyWatches, Watch

if TYPE_CHECKING:
    from ..device import Device
    from ..place import ModelOptions

T = TypeVar("T")

logger = logging.getLogger(__name__)


class CardEngine:
    """See `soundmill.models.place.Engine` for what handlers may do with it.

    Attributes:
        device: Opened by this process.
        meter: What was done so far, in numbers.
    """

    def __init__(
        self,
        device: Device,
        *,
        watch: Watch | None = None,
        limits: Limits | None = None,
        late: bool | None = None,
        ignore_stops: bool = False,
    ) -> None:
        """Start the thread; requests are taken from `open` on.

        Args:
            device: Opened by this process.
            watch: Told of each call, with its limit.
            limits: Of each phase.
            late: Whether stop flags are read a step late; `None` where the device works on by itself.
            ignore_stops: Whether all rows make as many frames as they may. For benchmarks only.
        """
        self.device = device
        self.meter = Meter()
        self._watch: Watch = watch or NobodyWatches()
        self._limits = limits or Limits()
        self._late = not device.immediate if late is None else late
        self._ignore_stops = ignore_stops
        self._lanes: dict[str, SlotLane | BatchLane] = {}
        self._options: dict[str, ModelOptions] = {}
        self._opened = False
        self._loop = Loop(device, self._lanes, self.meter)
        self._weighing = False

    # -- for handlers, from any thread -------------------------------------------------------------

    def call(self, work: Callable[[], T]) -> Future[T]:
        """See `soundmill.models.place.Engine.call`."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                with self._watch.watching(WHO, self._limits.load):
                    future.set_result(work())
            except Exception as error:  # noqa: BLE001 - raised where the result is asked for
                future.set_exception(error)
                if isinstance(self.device.failure(error), CardFailed):
                    self._loop.give_up(error)

        self._loop.post(run)
        return future

    def add_slots(
        self,
        name: str,
        model: SlotModel[Any, Any],
        *,
        options: ModelOptions,
        decoder: BatchModel[Any, Any] | None = None,
    ) -> None:
        """See `soundmill.models.place.Engine.add_slots`."""
        lane = None
        if decoder is not None:
            lane = self._batch_lane(f"{name}/decoder", decoder)
            self._add(lane)
        self._options[name] = options
        self._add(
            SlotLane(
                name,
                model,
                device=self.device,
                decoder=lane,
                watch=self._watch,
                limits=self._limits,
                late=self._late,
                fixed_bucket=options.reproducible,
                graphs=self.device.graphs(options.graphs),
                ignore_stops=self._ignore_stops,
                meter=self.meter,
            )
        )

    def add_batch(self, name: str, model: BatchModel[Any, Any]) -> None:
        """See `soundmill.models.place.Engine.add_batch`."""
        self._add(self._batch_lane(name, model))

    def slots(self, name: str) -> int:
        """See `soundmill.models.place.Engine.slots`."""
        return self._slot_lane(name).slots

    def generate(self, name: str, prompt: Any, *, positions: int, max_steps: int) -> Request[Generated[Any]]:
        """See `soundmill.models.place.Engine.generate`."""
        lane = self._slot_lane(name)
        if positions < 1 or max_steps < 1:
            raise ValueError("a row has at least one position and one step")
        if positions + max_steps > lane.model.context:
            raise InputError(
                f"the input takes {positions} positions and the output up to {max_steps}, together more than "
                f"the {lane.model.context} of {name}; shorten the input or allow a shorter output"
            )
        request = SlotRequest(
            self._loop.wake,
            prompt=prompt,
            positions=positions,
            max_steps=max_steps,
            audio_s=getattr(lane.model, "step_s", None),
        )
        self._enter(request, lambda: lane.waiting.append(request))
        return request

    def process(self, name: str, payload: Any) -> Request[Any]:
        """See `soundmill.models.place.Engine.process`."""
        lane = self._lanes[name]
        assert isinstance(lane, BatchLane), f"{name} is a slot model"
        request = ItemRequest(self._loop.wake)
        self._enter(request, lambda: lane.add(request, Item(payload=payload), request.processed))
        return request

    # -- for the owner of the process --------------------------------------------------------------

    def open(self) -> None:
        """Divide the memory among the models, warm up, capture, and take requests.

        Raises:
            ModelUnavailable: The memory left is too small for a model.
            CardFailed: The card did not survive it.
        """
        work = self.call(
            lambda: open_lanes(self.device, self._lanes, self._options, self._watch, self._limits)
        )
        try:
            work.result()
        except Exception as error:
            told = self.device.failure(error)
            if told is None or told is error:
                raise
            raise told from error
        self._opened = True

    def weigh(self) -> None:
        """Have the memory of the device put into `meter` between two turns; returns at once."""
        if self._weighing:  # it is busy with something long; once is enough
            return
        self._weighing = True

        def look() -> None:
            try:
                self.meter.memory, self.meter.peak = self.device.memory(), self.device.peak()
            except Exception:
                logger.debug("the device did not tell its memory", exc_info=True)
            finally:
                self._weighing = False

        self._loop.post(look)

    def close(self) -> None:
        """End the thread; what waits or runs ends with `ShuttingDown`."""
        self._loop.stop()

    def _enter(self, request: Request[Any], put: Callable[[], None]) -> None:
        if not self._opened:
            raise RuntimeError("the engine is not open yet")
        self._loop.enter(request, put)

    def _add(self, lane: SlotLane | BatchLane) -> None:
        if self._opened:
            raise RuntimeError("models are added before the engine opens")
        if lane.name in self._lanes:
            raise ValueError(f"there is a model {lane.name!r} already")
        self._lanes[lane.name] = lane

    def _slot_lane(self, name: str) -> SlotLane:
        lane = self._lanes[name]
        assert isinstance(lane, SlotLane), f"{name} is a batch model"
        return lane

    def _batch_lane(self, name: str, model: BatchModel[Any, Any]) -> BatchLane:
        return BatchLane(
            name, model, device=self.device, watch=self._watch, limits=self._limits, meter=self.meter
        )
