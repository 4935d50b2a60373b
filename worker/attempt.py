"""The attempts that this process holds, and what a handler sees of its own: the `Run`."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from soundmill.models.errors import Cancelled, DeadlineExceeded, Interrupted, LeaseLost, ShuttingDown
from soundmill.models.handler import Counts
from soundmill.storage.attempts import Claimed
from soundmill.storage.leases import Progress

from .pulse import Pulse

Key = tuple[str, int]

PHASES = frozenset({"load", "prefill", "generation", "decode", "write"})


class Attempt:
    """One attempt at one job: the `Run` of its handler, and the handle to stop it.

    Attributes:
        job: The row as it was claimed.
        scratch: The attempt's own folder; set before the handler runs.
        progress: How far it is, as far as the handler says so.
        seconds: How long each phase took so far.
    """

    def __init__(self, job: Claimed, pulse: Pulse, *, step_limit_s: float, load_limit_s: float) -> None:
        self.job = job
        self.make_scratch: Callable[[], Path] | None = None
        self._scratch: Path | None = None
        self.progress = Progress()
        self.seconds: dict[str, float] = defaultdict(float)
        self._pulse = pulse
        self._limits = {"load": load_limit_s}
        self._step_limit_s = step_limit_s
        self._stop: Interrupted | None = None
        # The row's times are the database's clock; what is left of them is counted on ours.
        left = None if job.deadline_at is None else job.deadline_at - job.started_at
        self._deadline = None if left is None else time.monotonic() + left

    @property
    def key(self) -> Key:
        """The job and the fence."""
        return self.job.id, self.job.attempt

    @property
    def scratch(self) -> Path:
        """See `soundmill.models.handler.Run.scratch`; made when it is first asked for."""
        if self._scratch is None:
            assert self.make_scratch is not None, (
                "the executor offers a scratch folder before the handler runs"
            )
            self._scratch = self.make_scratch()
        return self._scratch

    def stop(self, reason: Interrupted) -> None:
        """Let the next checkpoint raise `reason`; the first reason stays, except a lost lease, which wins."""
        if self._stop is None or isinstance(reason, LeaseLost):
            self._stop = reason

    def raise_if_stopped(self) -> None:
        """Raise the reason to stop, if there is one."""
        if self._stop is not None:
            raise self._stop
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise DeadlineExceeded

    def checkpoint(self, progress: float | None = None, made: Counts | None = None) -> None:
        """See `soundmill.models.handler.Run.checkpoint`."""
        self._pulse.beat(self.key)
        if progress is not None:
            self.progress = replace(self.progress, share=min(max(float(progress), 0.0), 1.0))
        if made is not None:
            self.progress = replace(self.progress, made=made)
        self.raise_if_stopped()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """See `soundmill.models.handler.Run.phase`."""
        if name not in PHASES:
            raise ValueError(f"{name!r} is no phase; there are {', '.join(sorted(PHASES))}")
        self._pulse.set_limit(self.key, self._limits.get(name, self._step_limit_s))
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - begun

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let the watchdog look at this attempt until the block ends."""
        with self._pulse.watching(self.key, self._step_limit_s):
            yield

    @property
    def stuck(self) -> bool:
        """Whether the handler has been silent for longer than its phase allows."""
        return self._pulse.stuck(self.key)


class Attempts:
    """All attempts of the process; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Key, Attempt] = {}
        self._closing: ShuttingDown | None = None

    @contextmanager
    def holding(self, attempt: Attempt) -> Iterator[Attempt]:
        """Count the attempt as held until the block ends."""
        with self._lock:
            self._held[attempt.key] = attempt
            if self._closing is not None:
                attempt.stop(self._closing)
        try:
            yield attempt
        finally:
            with self._lock:
                self._held.pop(attempt.key, None)

    def __len__(self) -> int:
        return len(self._held)

    def renewable(self) -> Mapping[Key, Progress]:
        """The attempts whose leases deserve to be renewed, with their progress."""
        with self._lock:
            held = list(self._held.values())
        return {attempt.key: attempt.progress for attempt in held if not attempt.stuck}

    def cancel(self, keys: Iterable[Key]) -> None:
        """Stop these attempts because their jobs were cancelled."""
        self._stop(keys, Cancelled)

    def lose(self, keys: Iterable[Key]) -> None:
        """Stop these attempts because their leases are gone."""
        self._stop(keys, LeaseLost)

    def _stop(self, keys: Iterable[Key], reason: type[Interrupted]) -> None:
        with self._lock:
            for key in keys:
                if key in self._held:
                    self._held[key].stop(reason())

    def hand_back(self, job_ids: Iterable[str]) -> None:
        """Stop these jobs so that they go back to their queues."""
        wanted = set(job_ids)
        with self._lock:
            for key, attempt in self._held.items():
                if key[0] in wanted:
                    attempt.stop(ShuttingDown())

    def hand_back_all(self) -> None:
        """Stop everything, and whatever still comes, so that the jobs go back to their queues."""
        with self._lock:
            self._closing = ShuttingDown()
            for attempt in self._held.values():
                attempt.stop(self._closing)
