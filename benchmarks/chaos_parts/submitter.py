"""A producer in a process of its own: `submitter.py SEED NUMBER JOBS SPAN_S LOG`. Settings come by the environment.

It submits its plan over the span, cancels and retries some of its jobs, and writes down what it was
answered. A database that is away is waited for. Killed and started again it asks again for what it has
no answer for: the idempotency keys tell what is known.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from event_log import events, note
from plan import Chunk, chunks

from soundmill.producer import Producer
from soundmill.storage.errors import NotFound, StateConflict, StorageUnavailable

T = TypeVar("T")

PAUSE_S = 0.2


class Submitter:
    """One producer and what it was answered so far."""

    def __init__(self, seed: int, number: int, jobs: int, span_s: float, log: Path) -> None:
        self.seed, self.number, self.jobs, self.span_s, self.log = seed, number, jobs, span_s, log
        self.ids: list[str] = []
        self.cancelled: list[str] = []
        self.known: set[int] = set()
        self.began = time.time()
        for event in events(log):
            self._remember(event)

    def _remember(self, event: dict[str, Any]) -> None:
        if event["what"] == "began":
            self.began = min(self.began, event["t"])
        elif event["what"] == "accepted":
            self.known.add(event["chunk"])
            self.ids += event["ids"]
        elif event["what"] == "cancelled":
            self.cancelled += event["ids"]

    def note(self, what: str, **facts: Any) -> None:
        """Write down what was asked or answered."""
        note(what, path=self.log, producer=self.number, **facts)

    def run(self, producer: Producer) -> None:
        """Submit everything that has no answer yet."""
        self.note("began")
        for chunk in chunks(self.seed, self.number, self.jobs):
            if chunk.number in self.known:
                continue
            time.sleep(max(0.0, self.began + chunk.due * self.span_s - time.time()))
            self._submit(producer, chunk)
            self._decide(producer, chunk)
        self.note("finished", jobs=len(self.ids))

    def _submit(self, producer: Producer, chunk: Chunk) -> None:
        self.note("submitting", chunk=chunk.number, jobs=len(chunk.requests))
        asked = time.monotonic()
        ids = patiently(lambda: _accepted(producer, chunk))
        self.note("accepted", chunk=chunk.number, ids=ids, seconds=time.monotonic() - asked)
        self.ids += ids

    def _decide(self, producer: Producer, chunk: Chunk) -> None:
        rng = random.Random(f"decide/{self.seed}/{self.number}/{chunk.number}")
        if chunk.cancels:
            # The youngest: the older ones are final long since.
            some = self.ids[-200:]
            self._cancel(producer, rng.sample(some, min(chunk.cancels, len(some))))
        for _ in range(chunk.retries if self.cancelled else 0):
            self._retry(producer, rng.choice(self.cancelled))

    def _cancel(self, producer: Producer, ids: list[str]) -> None:
        self.note("cancelling", ids=ids)
        patiently(lambda: producer.cancel(ids))
        self.note("cancelled", ids=ids)
        self.cancelled += ids

    def _retry(self, producer: Producer, id_: str) -> None:
        self.note("retrying", id=id_)
        try:
            patiently(lambda: producer.retry([id_]))
        except StateConflict as conflict:
            self.note("not_retried", id=id_, why=str(conflict))
        else:
            self.note("retried", id=id_)


def _accepted(producer: Producer, chunk: Chunk) -> list[str]:
    if chunk.graph:
        return [job.id for job in producer.submit_graph(chunk.requests)]
    answers = list(producer.submit_many(chunk.requests))
    refused = [answer.refusal for answer in answers if answer.job is None]
    if refused:
        raise SystemExit(f"a job was refused: {refused[0]}")
    return [answer.job.id for answer in answers if answer.job is not None]


def patiently(ask: Callable[[], T]) -> T:
    """Ask until the job table answers. All of what is asked here may be asked twice."""
    while True:
        try:
            return ask()
        except NotFound:
            raise
        except StorageUnavailable:
            time.sleep(PAUSE_S)


def main() -> None:
    """Submit what the command line says."""
    seed, number, jobs, span_s, log = sys.argv[1:]
    with Producer() as producer:
        Submitter(int(seed), int(number), int(jobs), float(span_s), Path(log)).run(producer)


if __name__ == "__main__":
    main()
