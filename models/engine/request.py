"""A request in the engine: a handler's thread waits for it, the engine's thread brings it on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import Interrupted
from .ports import Generated, Item, Row

if TYPE_CHECKING:
    from ..handler import Counts, Run

T = TypeVar("T")

LOOK_EVERY_S = 0.2
"""How often a waiting thread passes progress on and learns of a cancellation."""

GENERATED_SHARE = 0.9
"""The part of the progress that is done when a row has ended and its decoder begins."""


class Request(Generic[T]):
    """What waits, runs and ends; the `Ticket` of `soundmill.models.place`.

    Attributes:
        cancelled: Nobody waits any more.
        ended: It has an outcome.
        progress: The share done so far, 0 to 1.
        metrics: Figures of the finished request.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._done = threading.Event()
        self._told: Callable[[Request[Any]], None] = lambda request: None
        self._value: Any = None
        self._error: BaseException | None = None
        self.cancelled = False
        self.progress: float | None = None
        self.metrics: dict[str, float | int | str | bool] = {}
        self.submitted = time.monotonic()

    @property
    def ended(self) -> bool:
        return self._done.is_set()

    @property
    def made(self) -> Counts | None:
        """What there is so far."""
        return None

    # -- the handler's thread ----------------------------------------------------------------------

    def wait(self, run: Run) -> T:
        """See `soundmill.models.place.Ticket.wait`."""
        try:
            while not self._done.wait(LOOK_EVERY_S):
                run.checkpoint(self.progress, self.made)
            run.checkpoint(self.progress, self.made)
        except Interrupted:
            self.cancel()
            raise
        return self.result()

    def result(self, timeout_s: float | None = None) -> T:
        """Wait without a run, for people without a queue.

        Raises:
            TimeoutError: It has not ended after `timeout_s`.
        """
        if not self._done.wait(timeout_s):
            raise TimeoutError("the request has not ended")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]

    def cancel(self) -> None:
        """See `soundmill.models.place.Ticket.cancel`."""
        self.cancelled = True
        self._wake()

    # -- the engine's thread -----------------------------------------------------------------------

    def at_end(self, tell: Callable[[Request[Any]], None]) -> None:
        """Call `tell` when it has ended."""
        self._told = tell

    def succeed(self, value: T) -> None:
        """End with a value."""
        self._value = value
        self._end()

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended already."""
        if not self.ended:
            self._error = error
            self._end()

    def _end(self) -> None:
        self._done.set()
        self._told(self)


class SlotRequest(Request[Generated[Any]]):
    """A request for a row.

    Attributes:
        prompt: See `Row`.
        positions: See `Row`.
        max_steps: See `Row`.
        row: While it holds a slot.
        restarts: How often it lost its slot for want of memory and began again.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        *,
        prompt: Any,
        positions: int,
        max_steps: int,
        audio_s: float | None = None,
    ) -> None:
        """Ask for a row; `audio_s` is how much audio a step makes, without which steps are tokens."""
        super().__init__(wake)
        self.prompt, self.positions, self.max_steps = prompt, positions, max_steps
        self.row: Row[Any] | None = None
        self.restarts = 0
        self.steps = 0
        self.stopped = False
        self._seated = self._ready = self._first = self._generated = self.submitted
        self._audio_s = audio_s
        self._step_s = 0.0
        self._taken = self._most_rows = self._largest_bucket = 0

    @property
    def made(self) -> Counts | None:
        if self._taken == 0:
            return None
        if self._audio_s is None:
            return {"tokens": self._taken}
        return {"frames": self._taken, "audio_s": round(self._taken * self._audio_s, 3)}

    def seat(self, slot: int) -> Row[Any]:
        """Begin, or begin again, in a slot."""
        self._seated = time.monotonic()
        self._step_s = 0.0
        self.row = Row(prompt=self.prompt, positions=self.positions, max_steps=self.max_steps, slot=slot)
        return self.row

    def prefilled(self) -> None:
        """The next step makes the first frame."""
        self._ready = time.monotonic()

    def stepped(self, steps: int, *, seconds: float, rows: int, bucket: int, decodes: bool) -> None:
        """One more of its steps is known to have ended."""
        if steps == 1:
            self._first = time.monotonic()
        self._step_s += seconds
        self._most_rows = max(self._most_rows, rows)
        self._largest_bucket = max(self._largest_bucket, bucket)
        self.progress = steps / self.max_steps * (GENERATED_SHARE if decodes else 1.0)
        self._taken = steps

    def generated(self, *, steps: int, stopped: bool, taken: int, dtype: str | None) -> None:
        """It has left its slot after `steps` frames, having taken part in `taken` steps."""
        self._generated = time.monotonic()
        self.steps, self.stopped = steps, stopped
        self.metrics |= {
            "queue_s": round(self._seated - self.submitted, 6),
            "prefill_s": round(self._ready - self._seated, 6),
            "first_step_s": round(self._first - self.submitted, 6),
            "generation_s": round(self._generated - self._ready, 6),
            "batch_size": self._most_rows,
            "bucket": self._largest_bucket,
            "step_ms": round(1000 * self._step_s / max(taken, 1), 4),
        }
        if dtype is not None:
            self.metrics["dtype"] = dtype

    def complete(self, value: Any) -> None:
        """It has its value; nothing else follows."""
        self.succeed(
            Generated(value=value, steps=self.steps, stopped=self.stopped, metrics=dict(self.metrics))
        )

    def decoded(self, item: Item[Any, Any]) -> None:
        """Its decoder is done."""
        self.metrics |= {"decode_s": round(time.monotonic() - self._generated, 6), **item.metrics}
        self.complete(item.result)


class ItemRequest(Request[Any]):
    """A request for an item of a batch model."""

    def processed(self, item: Item[Any, Any]) -> None:
        """The model is done with it."""
        self.metrics |= {"process_s": round(time.monotonic() - self.submitted, 6), **item.metrics}
        self.succeed(item.result)
