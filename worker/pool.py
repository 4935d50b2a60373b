"""CardPool: Celery's thread pool with what it lacks for long jobs on a card.

Three things are mended. A slot can never leak: an error that escapes is reported to the request,
which acknowledges its message (the stock pool loses the slot for good). A job can be terminated.
And each queue has a limit of its own: at the limit it is not consumed, so that a model whose slots
are full holds no messages that another worker could take.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from billiard.einfo import ExceptionInfo
from celery.concurrency.base import apply_target
from celery.concurrency.thread import ApplyResult, TaskPool

logger = logging.getLogger(__name__)


class Consumer(Protocol):
    """What the intake needs of Celery's consumer. Its methods belong to the thread of the hub."""

    def call_soon(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in the hub's thread."""

    def add_task_queue(self, queue: str) -> None:
        """Consume a queue."""

    def cancel_task_queue(self, queue: str) -> None:
        """Stop consuming a queue."""


class Intake:
    """How many messages of each queue are in hand, and whether more are wanted.

    Messages are counted in and out by the pool; the queue is left and joined in the hub's thread.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        """Take at most `limits[queue]` messages of each queue at once."""
        self._limits = dict(limits)
        self._lock = threading.Lock()
        self._in_hand: Counter[str] = Counter()
        self._consumed = set(limits)
        self._draining = False
        self._consumer: Consumer | None = None

    @property
    def total(self) -> int:
        """The messages that may be in hand altogether."""
        return sum(self._limits.values())

    def attach(self, consumer: Consumer) -> None:
        """Steer this consumer, which consumes every queue at first; called again after a reconnect."""
        with self._lock:
            self._consumer = consumer
            self._consumed = set(self._limits)
        consumer.call_soon(self._adjust)

    def entered(self, queue: str) -> None:
        """A message was received; called in the hub's thread."""
        with self._lock:
            self._in_hand[queue] += 1
        self._adjust()

    def left(self, queue: str) -> None:
        """A message was dealt with; called in any thread."""
        with self._lock:
            self._in_hand[queue] -= 1
            consumer, wanted = self._consumer, self._wanted()
            changed = wanted != self._consumed
        if consumer is not None and changed:
            consumer.call_soon(self._adjust)

    def drain(self, draining: bool) -> None:
        """Take nothing new, or go on; called in any thread."""
        with self._lock:
            changed, self._draining = draining != self._draining, draining
            consumer = self._consumer
        if consumer is not None and changed:
            consumer.call_soon(self._adjust)

    def _wanted(self) -> set[str]:
        # One queue alone needs no steering: the prefetch limit is its limit.
        if self._draining:
            return set()
        if len(self._limits) == 1:
            return set(self._limits)
        return {queue for queue, limit in self._limits.items() if self._in_hand[queue] < limit}

    def _adjust(self) -> None:
        with self._lock:
            consumer, wanted = self._consumer, self._wanted()
            leave, join = self._consumed - wanted, wanted - self._consumed
            self._consumed = wanted
        if consumer is None:
            return
        for queue in leave:
            consumer.cancel_task_queue(queue)
        for queue in join:
            consumer.add_task_queue(queue)


class CardPool(TaskPool):
    """Threads that wait for the card; see the module's text.

    Attributes:
        intake: Set on a subclass made by `pool_with`, since Celery builds the pool by itself.
        terminate: What to do to the job of a thread that Celery wants terminated.
    """

    intake: Intake
    terminate: Callable[[str], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._jobs: dict[int, str] = {}  # thread → job, for `terminate_job`

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        error_callback: Callable[..., Any] | None = None,
        correlation_id: str | None = None,
        **_: Any,
    ) -> ApplyResult:
        """Hand a message to a thread. The arguments are Celery's."""
        queue = _queue_of(args or ())
        self.intake.entered(queue)

        def run() -> None:
            thread = threading.get_ident()
            if correlation_id is not None:
                self._jobs[thread] = correlation_id
            try:
                apply_target(
                    target, args or (), kwargs, callback, accept_callback, getpid=threading.get_ident
                )
            except BaseException:
                logger.exception("a task failed outside its own error handling")
                if error_callback is not None:
                    error_callback(ExceptionInfo())
            finally:
                self._jobs.pop(thread, None)
                self.intake.left(queue)

        return ApplyResult(self.executor.submit(run))

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Stop the job of a thread; `pid` is the thread's identity."""
        job = self._jobs.get(pid)
        if job is not None:
            type(self).terminate(job)


def pool_with(intake: Intake, terminate: Callable[[str], None]) -> type[CardPool]:
    """A pool class for one worker process, bound to its intake."""
    return type("CardPool", (CardPool,), {"intake": intake, "terminate": staticmethod(terminate)})


def _queue_of(args: tuple[Any, ...]) -> str:
    # (task name, task id, request, body, content type, content encoding), as Celery's Request sends them.
    request = args[2] if len(args) > 2 else {}
    delivery = request.get("delivery_info") or {}
    return str(delivery.get("routing_key", ""))
