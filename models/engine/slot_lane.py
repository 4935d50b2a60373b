"""One slot model in the engine: admit → prefill → step → finish."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..device.device import short_name
from ..device.graph import WARM_CALLS
from ..errors import Cancelled, ModelUnavailable, OutOfMemory
from .batch_lane import BatchLane
from .faults import Fault, Faults
from .meter import Meter
from .ports import Item, Row, SlotModel, Stops
from .request import SlotRequest
from .schedule import PREFILL_TOKENS, SlotTable, bucket_sizes, pack
from .watch import WHO, Limits, Watch

if TYPE_CHECKING:
    from ..device import Device, Timer

logger = logging.getLogger(__name__)

LEAST_TOKENS = 16
MOST_RESTARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A step that was launched and may still run.

    Attributes:
        stops: Its flags.
        rows: Each request that took part, its row, in which slot, and how many steps it has with this one.
        bucket: How many slots took part.
        timer: How long the device took.
    """

    stops: Stops
    rows: Sequence[tuple[SlotRequest, Row[Any], int, int]]
    bucket: int
    timer: Timer


class SlotLane:
    """The requests of one slot model; all of it runs on the engine's thread.

    Attributes:
        name: Of the model.
        model: Behind its port.
        waiting: Those without a slot, in the order of their coming.
    """

    def __init__(
        self,
        name: str,
        model: SlotModel[Any, Any],
        *,
        device: Device,
        decoder: BatchLane | None,
        watch: Watch,
        limits: Limits,
        late: bool,
        fixed_bucket: bool = False,
        graphs: bool = False,
        ignore_stops: bool = False,
        meter: Meter | None = None,
    ) -> None:
        """Take up a model that is loaded; `open` gives it slots.

        Args:
            name: Of the model.
            model: Behind its port.
            device: Where it runs.
            decoder: What its rows release goes there.
            watch: Told of each call.
            limits: Of each call.
            late: Whether flags are read after the next step was launched. Where work is done when its
                call returns that would only cost a step.
            fixed_bucket: Whether every step takes all slots and every prompt is run alone, so that
                16-bit results do not depend on the company.
            graphs: Whether steps are captured.
            ignore_stops: Whether rows always make `max_steps` frames, as benchmarks on random weights
                need it.
            meter: Counts the rows of each step.
        """
        self.name = name
        self._figures = (meter or Meter()).lane(name)
        self.model = model
        self.waiting: deque[SlotRequest] = deque()
        self._device = device
        self._decoder = decoder
        self._watch, self._limits = watch, limits
        self._faults = Faults(device)
        self._late, self._fixed, self._graphs, self._ignore_stops = late, fixed_bucket, graphs, ignore_stops
        self._table: SlotTable[SlotRequest] = SlotTable(0)
        self._flying: Launch | None = None
        self._tokens = PREFILL_TOKENS
        self._alone = False
        self._trouble: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or len(self._table) or self._flying)

    @property
    def slots(self) -> int:
        """How many rows it runs together."""
        return self._table.slots

    def turn(self) -> None:
        """Bring every row on by one step; rows join before it, and leave after it."""
        self._drop_cancelled()
        self._admit()
        self._prefill()
        landed, self._flying = self._flying, self._step()
        self._finish(landed)
        if not self._late:
            landed, self._flying = self._flying, None
            self._finish(landed)
        self._recover()

    # -- slots -------------------------------------------------------------------------------------

    def open(self, slots: int) -> int:
        """Make caches for `slots` rows, or for fewer where the memory is short; warm up and capture.

        Returns:
            How many there are.

        Raises:
            ModelUnavailable: There is no room for one.
        """
        while True:
            try:
                self.model.reserve(slots)
                self._warm_up(slots)
            except Exception as error:
                if self._faults.judge(error) != Fault.OOM:
                    raise
                if slots == 1:
                    raise ModelUnavailable(
                        f"{self.name}: the card has no memory for a single slot"
                    ) from error
                slots = max(1, 3 * slots // 4)
                logger.warning("slots do not fit; trying fewer", extra={"model": self.name, "slots": slots})
            else:
                self._table = SlotTable(slots)
                return slots

    def _warm_up(self, slots: int) -> None:
        """Run the step of every size, the largest first, as it needs the most."""
        sizes = bucket_sizes(slots) if self._graphs and not self._fixed else (slots,)
        with self._watch.watching(WHO, self._limits.warm_up):
            for bucket in reversed(sizes):
                warm_up: Callable[[int], None] = getattr(self.model, "warm_up", self._warm_bucket)
                warm_up(bucket)

    def _warm_bucket(self, bucket: int) -> None:
        """Step without rows, until a graph has recorded it."""
        for _ in range(WARM_CALLS + 1 if self._graphs else 1):
            self.model.step(bucket, ()).read()

    # -- admit -------------------------------------------------------------------------------------

    def _drop_cancelled(self) -> None:
        for request in [request for request in self.waiting if request.cancelled]:
            self.waiting.remove(request)
            request.fail(Cancelled())
        for request in self._table.rows:
            if request.cancelled:
                self._fail(request, Cancelled())

    def _admit(self) -> None:
        while self.waiting and not self._table.full:
            request = self.waiting.popleft()
            request.seat(self._table.seat(request))

    # -- prefill -----------------------------------------------------------------------------------

    def _prefill(self) -> None:
        """Run a bounded part of the prompts that are not done."""
        unready = [request for request in self._table.rows if not _row(request).ready]
        if not unready:
            return
        chosen = self._packed(unready)
        try:
            self._run_prefill(chosen)
        except Exception as error:  # noqa: BLE001 - judged, and raised again unless it is one request's
            self._prefill_failed(chosen, error)
        else:
            self._tokens, self._alone = min(2 * self._tokens, PREFILL_TOKENS), False

    def _packed(self, unready: Sequence[SlotRequest]) -> Sequence[SlotRequest]:
        if self._alone or self._fixed:
            return unready[:1]
        lengths = [max(1, request.positions - _row(request).filled) for request in unready]
        return [unready[index] for index in pack(lengths, self._tokens)]

    def _run_prefill(self, requests: Sequence[SlotRequest]) -> None:
        with self._watch.watching(WHO, self._limits.prefill):
            self.model.prefill([_row(request) for request in requests], self._tokens)
        for request in requests:
            if _row(request).ready:
                request.prefilled()

    def _prefill_failed(self, requests: Sequence[SlotRequest], error: Exception) -> None:
        """Nothing has advanced: the next turn does less, until one row alone is too much."""
        fault = self._faults.judge(error)
        if fault == Fault.OOM and self._tokens > LEAST_TOKENS:
            self._tokens //= 2
        elif fault == Fault.OOM and len(requests) > 1:
            self._alone = True
        elif fault == Fault.OOM:
            self._fail(requests[0], OutOfMemory(f"the card has no memory for this prompt ({error})"))
        elif len(requests) == 1:
            self._fail(requests[0], error)
        else:
            self._prefill_singly(requests)

    def _prefill_singly(self, requests: Sequence[SlotRequest]) -> None:
        """One of them is to blame, and only that one shall fail."""
        for request in requests:
            try:
                self._run_prefill([request])
            except Exception as error:  # noqa: BLE001 - see above
                self._prefill_failed([request], error)

    # -- step --------------------------------------------------------------------------------------

    def _step(self) -> Launch | None:
        """Launch a step for every row that is ready; its flags come later."""
        self._close_up()
        requests = [request for request in self._table.rows if _may_step(_row(request))]
        if not requests:
            return None
        rows = [_row(request) for request in requests]
        bucket = self.slots if self._fixed else self._table.bucket
        timer = self._device.timer()
        try:
            with self._watch.watching(WHO, self._limits.step), timer:
                stops = self.model.step(bucket, rows)
        except Exception as error:  # noqa: BLE001 - judged by `_recover`, when the step before is finished
            self._trouble = error
            return None
        for row in rows:
            row.steps += 1
        taken = [(request, row, row.slot, row.steps) for request, row in zip(requests, rows, strict=True)]
        return Launch(stops=stops, rows=taken, bucket=bucket, timer=timer)

    def _close_up(self) -> None:
        """Let the last row move down when most slots below it are free: one copy, then smaller steps."""
        gap = self._table.gap()
        if gap is not None and not self._fixed:
            self._move(*gap)

    def _move(self, source: int, target: int) -> None:
        self.model.move(source, target)
        self._table.move(source, target)
        for request in self._table.rows:
            if _row(request).slot == source:
                _row(request).slot = target

    # -- finish ------------------------------------------------------------------------------------

    def _finish(self, launch: Launch | None) -> None:
        """Read the flags of a step, and let the rows go that ended with it."""
        if launch is None:
            return
        with self._watch.watching(WHO, self._limits.step):
            flags = launch.stops.read()
        seconds = launch.timer.seconds()
        count = len(launch.rows)
        self._figures.sizes.add(count)
        self._figures.padding.add(1 - count / launch.bucket)
        for request, row, slot, steps in launch.rows:
            if request.row is not row:
                continue  # it ended a step before, this was the surplus one; or it begins again
            request.stepped(
                steps, seconds=seconds, rows=count, bucket=launch.bucket, decodes=self._decoder is not None
            )
            if flags[slot] and not self._ignore_stops:
                self._end(request, steps=steps - 1, taken=steps, stopped=True)
            elif steps == request.max_steps:
                self._end(request, steps=steps, taken=steps, stopped=False)

    def _end(self, request: SlotRequest, *, steps: int, taken: int, stopped: bool) -> None:
        """The row has made its frames: they go on, and the slot is free."""
        try:
            value = self._released(_row(request), steps)
        except Exception as error:  # noqa: BLE001 - it concerns this request alone
            self._fail(request, self._faults.told(error))
            return
        self._vacate(request)
        request.generated(steps=steps, stopped=stopped, taken=taken, dtype=self._dtype)
        if self._decoder is None:
            request.complete(value)
        else:
            self._decoder.add(request, Item(payload=value), request.decoded)

    def _released(self, row: Row[Any], steps: int) -> Any:
        try:
            return self.model.release(row, steps)
        except Exception as error:
            if self._faults.judge(error) != Fault.OOM:
                raise
        return self.model.release(row, steps)  # what was cached has been freed

    def _fail(self, request: SlotRequest, error: Exception) -> None:
        self._discard(request)
        request.fail(error)

    def _discard(self, request: SlotRequest) -> None:
        """Free the slot of a row of which nothing is wanted."""
        try:
            self.model.release(_row(request), 0)
        except Exception as error:
            self._faults.judge(error)
            logger.exception("a slot could not be cleaned", extra={"model": self.name})
        self._vacate(request)

    def _vacate(self, request: SlotRequest) -> None:
        self._table.leave(_row(request).slot)
        request.row = None

    @property
    def _dtype(self) -> str | None:
        dtype = getattr(self.model, "dtype", None)
        return None if dtype is None else short_name(dtype)

    # -- recover from a step that failed -----------------------------------------------------------

    def _recover(self) -> None:
        """Go on with fewer slots where memory ran out; else fail the rows that took part."""
        error, self._trouble = self._trouble, None
        if error is None:
            return
        out_of_memory = self._faults.judge(error) == Fault.OOM
        if out_of_memory and self.slots > 1:
            self._shrink(max(1, self.slots // 2))
            return
        for request in self._table.rows:
            if _may_step(_row(request)):
                self._fail(request, self._faults.told(error))

    def _shrink(self, slots: int) -> None:
        """Rows for which no slot is left begin again, with the same draws.

        Captured steps are void afterwards; they are captured again as they come.
        """
        logger.warning(
            "a step found no memory; going on with fewer slots",
            extra={"model": self.name, "slots": slots, "before": self.slots},
        )
        for source, target in self._table.beyond(slots):
            if target is not None:
                self._move(source, target)
        for request in reversed(self._table.rows):
            if _row(request).slot >= slots:
                self._discard(request)
                self._restart(request)
        self._table.shrink(slots)
        self._reserve_less(slots)

    def _reserve_less(self, slots: int) -> None:
        while True:
            try:
                self.model.reserve(slots)
            except Exception as error:
                if slots == 1 or self._faults.judge(error) != Fault.OOM:
                    raise
            else:
                return
            # The rows went with the attempt.
            for request in reversed(self._table.rows):
                request.row = None
                self._restart(request)
            slots = max(1, slots // 2)
            self._table = SlotTable(slots)
            self.model.reserve(0)

    def _restart(self, request: SlotRequest) -> None:
        request.restarts += 1
        if request.restarts > MOST_RESTARTS:
            request.fail(OutOfMemory("the card ran out of memory again and again; let it serve fewer models"))
        else:
            self.waiting.appendleft(request)


def _row(request: SlotRequest) -> Row[Any]:
    assert request.row is not None, "a request that sits has a row"
    return request.row


def _may_step(row: Row[Any]) -> bool:
    return row.ready and row.steps < row.max_steps
