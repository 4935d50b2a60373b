"""The parts of a card's process put together without Celery: a real job table, real blobs, a handler of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundmill.models.handler import Output, OutputFile, Run
from soundmill.models.place import Place
from soundmill.storage.arguments import Arguments, AudioInput
from soundmill.storage.attempts import Claimed
from soundmill.storage.blobs import LocalBlobStore
from soundmill.storage.catalog import Catalog, Model
from soundmill.storage.database import Database
from soundmill.storage.errors import BrokerUnavailable
from soundmill.storage.window import Wake
from soundmill.worker.attempt import Attempts
from soundmill.worker.executor import Executor, Limits
from soundmill.worker.ledger import Ledger
from soundmill.worker.pulse import Pulse

from ..storage.jobs import submit

Work = Callable[[Any, Run], Output]

WORKER = "cpu-0@here#1"


class PuppetArguments(Arguments):
    """What the puppet takes."""

    text: str = ""
    audio: AudioInput | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PuppetRequest:
    """The same, as the handler sees it."""

    text: str
    audio: Path | None


class Puppet:
    """A handler that does what the test says."""

    request = PuppetRequest
    slots = 2

    def __init__(self, work: Work) -> None:
        self.work = work
        self.requests: list[PuppetRequest] = []

    def load(self, place: Place) -> None:
        """Nothing to load."""

    def perform(self, request: PuppetRequest, run: Run) -> Output:
        """Do what the test says."""
        self.requests.append(request)
        return self.work(request, run)

    def close(self) -> None:
        """Nothing to free."""


CATALOG = Catalog(
    [
        Model(
            id="puppet", kind="tts", title="", arguments=PuppetArguments, handler="-:-", licence="-",
            audio_fields=("audio",),
        )
    ]
)  # fmt: skip


@dataclass
class Mailbox:
    """A publisher that keeps what it is given; or the Redis behind it is dead."""

    sent: list[Wake] = field(default_factory=list)
    dead: bool = False
    lanes: dict[tuple[str, int], int] = field(default_factory=dict)

    def publish(self, wakes: Sequence[Wake]) -> None:
        """Take messages."""
        if self.dead:
            raise BrokerUnavailable("no Redis")
        self.sent += wakes
        for wake in wakes:
            self.lanes[wake.lane] = self.lanes.get(wake.lane, 0) + 1

    def lengths(self, models: Iterable[str]) -> dict[tuple[str, int], int]:
        """How many messages wait."""
        if self.dead:
            raise BrokerUnavailable("no Redis")
        return {(model, step): self.lanes.get((model, step), 0) for model in models for step in (0, 3, 6, 9)}

    def flush(self) -> None:
        """Lose everything."""
        self.lanes.clear()


@dataclass
class Bench:
    """One card's process, without the process."""

    database: Database
    blobs: LocalBlobStore
    puppet: Puppet
    attempts: Attempts
    ledger: Ledger
    mailbox: Mailbox
    executor: Executor

    def submit(self, **changes: Any) -> str:
        """Accept a job for the puppet."""
        args = CATALOG.get("puppet").parse(changes.pop("args", {})).model_dump()
        return submit(self.database, model="puppet", args=args, **changes)


def finish(request: Any, run: Run) -> Output:
    """The simplest work there is."""
    return Output(result={"text": request.text})


def write(text: str = "sound", role: str = "audio", name: str = "out.wav") -> Work:
    """Work that writes a file."""

    def work(request: Any, run: Run) -> Output:
        path = run.scratch / name
        path.write_text(text)
        file = OutputFile(name=name, path=path, media_type="audio/wav", role=role)
        return Output(result={}, files=(file,), metrics={"audio_s": 2.0})

    return work


@contextmanager
def bench_on(
    database: Database, folder: Path, work: Work = finish, *, slots: int = 2, metrics_file: bool = True
) -> Iterator[Bench]:
    """Put the parts together."""
    blobs, puppet, attempts, mailbox = LocalBlobStore(folder / "blobs"), Puppet(work), Attempts(), Mailbox()
    ledger = Ledger(
        database, worker=WORKER, card="cpu:0", lease_s=30, linger_s=0.01, in_flight=attempts.__len__
    )
    executor = Executor(
        database=database, blobs=blobs, catalog=CATALOG, handlers={"puppet": puppet}, slots={"puppet": slots},
        ledger=ledger, attempts=attempts, pulse=Pulse(None), publisher=mailbox,  # type: ignore[arg-type]
        limits=Limits(step_s=60, load_s=600, metrics_file=metrics_file),
    )  # fmt: skip
    try:
        yield Bench(database, blobs, puppet, attempts, ledger, mailbox, executor)
    finally:
        ledger.close()


__all__ = ["WORKER", "Bench", "Claimed", "Mailbox", "bench_on", "finish", "write"]
