"""The port between a worker and a model: `Handler`, and what passes through it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .place import Place


Counts = Mapping[str, float | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file that the handler wrote into the run's scratch folder.

    Attributes:
        name: What the artifact is called within its job, such as `audio.wav`; unique in an output.
        path: Where it lies now, inside `Run.scratch`. The worker moves it away.
        media_type: Its MIME type.
        role: What it is to other jobs; a job that reads "the audio of" this one gets `audio`.
    """

    name: str
    path: Path
    media_type: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a handler made of one request.

    Attributes:
        result: Small JSON (no NaN) for the job's row: durations, counts, the caption itself.
        files: Everything larger.
        metrics: Figures beyond the phases that the run times by itself, with units in the names
            (`audio_s`, `frames`, `batch_size`).
    """

    result: Mapping[str, Any]
    files: tuple[OutputFile, ...] = ()
    metrics: Mapping[str, float | int | str | bool] = field(default_factory=dict)


class Run(Protocol):
    """One attempt at one job, as its handler sees it."""

    @property
    def scratch(self) -> Path:
        """A folder of this attempt's own, on the file system of the artifacts.

        It is removed after the attempt, whatever became of it.
        """

    def checkpoint(self, progress: float | None = None, made: Counts | None = None) -> None:
        """Say that the work goes on, and learn whether it still should.

        Call it at every step, at least every half second: the watchdog ends a process whose
        handlers stay silent, and a cancelled job can only stop here.

        Args:
            progress: The share done so far, 0 to 1; `None` leaves it as it was.
            made: What there is so far, under the names that the metrics will have (`frames`,
                `audio_s`); `None` leaves it as it was.

        Raises:
            Interrupted: One of its four kinds; let it pass.
        """

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time a part of the work as the metric `<name>_s`.

        Args:
            name: One of `load`, `prefill`, `generation`, `decode`, `write`. It also chooses how
                long the watchdog waits between two checkpoints.
        """


class Handler(Protocol):
    """A model, loaded on one card, that performs the requests of many jobs.

    `perform` is called from several threads at once, up to `slots` of them; a handler whose
    library is not thread-safe serialises the part that is not. It is built without arguments,
    which loads nothing.

    Attributes:
        request: A frozen, slotted, keyword-only dataclass. Its fields are the job's arguments, all
            given, none defaulted; where input audio is named, the `Path` of a readable local file
            arrives. An argument that is a list of objects is a tuple of mappings.
    """

    request: type[Any]

    @property
    def slots(self) -> int:
        """How many requests it performs at the same time; of a model in the engine, once that is open."""

    def load(self, place: Place) -> None:
        """Make ready at a place (its card, options and engine); called once, before any request.

        Raises:
            ModelUnavailable: A library or the weights are missing; the message has the remedy.
        """

    def perform(self, request: Any, run: Run) -> Output:
        """Perform one request, calling `run.checkpoint` along the way.

        Raises:
            ModelError: With a sentence for the submitter; only this request is affected.
            Interrupted: As raised by `run.checkpoint`.
        """

    def close(self) -> None:
        """Free what `load` took."""
