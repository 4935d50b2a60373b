"""The engine's thread: the only one that touches the device. It lets requests in and its models take turns."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..errors import CardFailed, ShuttingDown
from .meter import Meter
from .request import Request
from .schedule import Turns

if TYPE_CHECKING:
    from ..device import Device, Timer

logger = logging.getLogger(__name__)


class Lane(Protocol):
    """A model and its requests, as the loop sees them."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""

    def turn(self) -> None:
        """Bring its requests on by one bounded piece of work. What it raises ends the engine."""


class Loop:
    """Runs until `stop`; whatever ends it ends every request, so that nobody waits for ever."""

    def __init__(self, device: Device, lanes: Mapping[str, Lane], meter: Meter | None = None) -> None:
        """Start the thread.

        Args:
            device: Which it is bound to.
            lanes: Those that take turns; more may come until the first request.
            meter: Counts how long the device is busy with each.
        """
        self._device = device
        self._lanes = lanes
        self._meter = meter or Meter()
        self._turns = Turns()
        self._timed: deque[tuple[str, Timer]] = deque()
        self._inbox: deque[Callable[[], None]] = deque()
        self._news = threading.Condition()
        self._requests: set[Request[Any]] = set()
        self._stopping = False
        self._failure: CardFailed | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine-{device}", daemon=True)
        self._thread.start()

    # -- from any thread ---------------------------------------------------------------------------

    def post(self, work: Callable[[], None]) -> None:
        """Run something short between two turns."""
        with self._news:
            self._inbox.append(work)
            self._news.notify()

    def wake(self) -> None:
        """Something has changed: look at it."""
        self.post(lambda: None)

    def enter(self, request: Request[Any], put: Callable[[], None]) -> None:
        """Let a request in; `put` hands it to its lane."""

        def come_in() -> None:
            if self._stopping:
                request.fail(ShuttingDown())
            elif self._failure is not None:
                request.fail(type(self._failure)(*self._failure.args))
            else:
                self._requests.add(request)
                request.at_end(self._requests.discard)
                put()

        self.post(come_in)

    def stop(self) -> None:
        """End the thread; what waits or runs ends with `ShuttingDown`."""
        self._stopping = True
        self.wake()
        self._thread.join()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        self._device.bind_thread()
        while not self._stopping:
            self._let_in()
            name = self._turns.next([name for name, lane in self._lanes.items() if lane.busy])
            if name is None or self._failure is not None:
                self._rest()
            else:
                self._take_turn(name)
                self._charge()
        self._let_in()
        self._end_all(ShuttingDown)

    def _let_in(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _take_turn(self, name: str) -> None:
        timer = self._device.timer()
        try:
            with torch.inference_mode(), timer:
                self._lanes[name].turn()
        except Exception as error:  # noqa: BLE001 - it is told to every request
            self.give_up(error)
        else:
            self._timed.append((name, timer))

    def _charge(self) -> None:
        """Count the turns that the device has done with; none is waited for."""
        while self._timed and self._timed[0][1].ready():
            name, timer = self._timed.popleft()
            seconds = timer.seconds()
            self._turns.charge(name, seconds)
            self._meter.lane(name).busy_s += seconds

    def _rest(self) -> None:
        """Wait for something to do."""
        with self._news:
            self._news.wait_for(lambda: self._inbox or self._stopping)

    def give_up(self, error: Exception) -> None:
        """Nothing that runs here can be trusted any more: every request fails, so that the process ends."""
        logger.critical("the engine gives its card up", exc_info=error)
        told = self._device.failure(error)
        if not isinstance(told, CardFailed):
            told = CardFailed(f"the engine stopped: {type(error).__name__}: {error}")
        self._failure = told
        kind, args = type(told), told.args
        self._end_all(lambda: kind(*args))

    def _end_all(self, error: Callable[[], BaseException]) -> None:
        for request in list(self._requests):
            request.fail(error())  # each its own: a traceback belongs to one thread
