"""One batch model in the engine: the items of many requests, a bounded piece of work at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, OutOfMemory
from .faults import Fault, Faults
from .meter import Meter
from .ports import BatchModel, Item, Took
from .request import GENERATED_SHARE, Request, SlotRequest
from .watch import WHO, Limits, Watch

if TYPE_CHECKING:
    from ..device import Device

BUDGET_S = 0.05
"""What a call should take: so long, rows of other models wait for it."""

LEAST_BUDGET_S = BUDGET_S / 10


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """An item, whose it is, and who is told when it is done."""

    request: Request[Any]
    item: Item[Any, Any]
    done: Callable[[Item[Any, Any]], None]


class BatchLane:
    """The items of one batch model; all of it runs on the engine's thread.

    Attributes:
        name: Of the model.
        model: Behind its port.
    """

    def __init__(
        self,
        name: str,
        model: BatchModel[Any, Any],
        *,
        device: Device,
        watch: Watch,
        limits: Limits,
        meter: Meter | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self._figures = (meter or Meter()).lane(name)
        self._watch, self._limits = watch, limits
        self._faults = Faults(device)
        self._queue: list[Work] = []
        self._most = model.max_items
        self._budget_s = BUDGET_S

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._queue)

    def add(
        self, request: Request[Any], item: Item[Any, Any], done: Callable[[Item[Any, Any]], None]
    ) -> None:
        """Take an item; `done` is called with it in the end, unless it fails."""
        self._queue.append(Work(request=request, item=item, done=done))

    def turn(self) -> None:
        """Do one bounded piece of work for the oldest items."""
        self._drop_cancelled()
        chosen = self._queue[: self._most]
        if not chosen:
            return
        try:
            self._run(chosen)
        except Exception as error:  # noqa: BLE001 - judged, and raised again unless it is one request's
            self._failed(chosen, error)
        else:
            self._most, self._budget_s = min(2 * self._most, self.model.max_items), BUDGET_S
        self._queue = [work for work in self._queue if not work.request.ended]

    def _drop_cancelled(self) -> None:
        for work in self._queue:
            if work.request.cancelled:
                work.request.fail(Cancelled())
        self._queue = [work for work in self._queue if not work.request.ended]

    def _run(self, chosen: Sequence[Work]) -> None:
        with self._watch.watching(WHO, self._limits.decode):
            self.model.run([work.item for work in chosen], self._budget_s)
        self._count(len(chosen))
        for work in chosen:
            self._look(work, len(chosen))

    def _count(self, offered: int) -> None:
        took: Took | None = getattr(self.model, "took", None)
        self._figures.sizes.add(offered if took is None else took.items)
        if took is not None:
            self._figures.padding.add(took.padding)

    def _look(self, work: Work, together: int) -> None:
        item, request = work.item, work.request
        if not item.done:
            if item.progress is not None:
                before = GENERATED_SHARE if isinstance(request, SlotRequest) else 0.0
                request.progress = before + (1 - before) * item.progress
        elif item.error is not None:
            request.fail(item.error)
        else:
            item.metrics.setdefault("items_together", together)
            work.done(item)

    def _failed(self, chosen: Sequence[Work], error: Exception) -> None:
        """Nothing has advanced: the next call does less, until one item alone is too much."""
        out_of_memory = self._faults.judge(error) == Fault.OOM
        if out_of_memory and len(chosen) > 1:
            self._most = len(chosen) // 2
        elif out_of_memory and self._budget_s > LEAST_BUDGET_S:
            self._budget_s = LEAST_BUDGET_S
        elif out_of_memory:
            chosen[0].request.fail(OutOfMemory(f"the card has no memory for this request ({error})"))
        elif len(chosen) > 1:
            self._run_singly(chosen)
        else:
            chosen[0].request.fail(error)

    def _run_singly(self, chosen: Sequence[Work]) -> None:
        """One of them is to blame, and only that one shall fail."""
        for work in chosen:
            try:
                self._run([work])
            except Exception as error:  # noqa: BLE001 - see above
                self._failed([work], error)
