"""A measurement from beginning to end: `measure`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..device import failure_on
from ..errors import ModelError, ModelUnavailable
from ..station import Station
from .plan import Plan
from .subject import Source, Subject, subject_of

if TYPE_CHECKING:
    import torch

    from ..device import Device
    from ..station import CardPlace

Tell = Callable[[str], None]
"""Told what is being done, in a few words."""

Gate = Callable[[], None]
"""Called when all is loaded; returns when measuring may begin."""


def measure(plan: Plan, *, tell: Tell = lambda words: None, gate: Gate = lambda: None) -> dict[str, Any]:
    """Measure what a plan says, in this process.

    Args:
        plan: What.
        tell: Told of the progress.
        gate: For several cards that begin together.

    Returns:
        A JSON document; see `results.py` and the kinds.

    Raises:
        InputError: The plan asks for something that is not.
        ModelUnavailable: The card, a library or the weights are missing or damaged, or the model does not fit.
        CardFailed: The card failed; this process must not use it again.
        OutOfMemory: The card has no memory for it.
        NothingMade: Nothing came out of any load.
    """
    from .against import measure_generate
    from .components import measure_components
    from .jobs import measure_jobs
    from .rows import measure_rows

    kinds = {
        "rows": measure_rows,
        "jobs": measure_jobs,
        "generate": measure_generate,
        "components": measure_components,
    }
    try:
        return kinds[plan.kind](plan.checked(), tell, gate)
    except ModelError:
        raise
    except Exception as error:
        told = failure_on(plan.device, error)
        if told is None:
            raise
        raise told from error


def source_of(plan: Plan) -> Source:
    """Where the weights of a plan come from.

    Raises:
        ModelUnavailable: Nobody said, or there is no such folder.
    """
    folder = plan.checkpoint
    if folder is None and not plan.random_weights:
        raise ModelUnavailable(
            f"{plan.model} has no checkpoint here; name its folder with --checkpoint-dir, or measure with "
            "--random-weights, which needs none"
        )
    if folder is not None and not folder.is_dir():
        raise ModelUnavailable(
            f"{folder} is no folder; put the checkpoint of {plan.model} there, name another one with "
            "--checkpoint-dir, or measure with --random-weights, which needs none"
        )
    return Source(folder=folder, random=plan.random_weights, extra=dict(plan.extra))


class Opened:
    """A card with a subject that is about to be measured on it.

    Attributes:
        plan: With loads that suit the device.
        place: Where the subject joins the engine.
    """

    def __init__(self, plan: Plan, subject: Subject, station: Station) -> None:
        """Open the device."""
        self.subject = subject
        self._station = station
        self.device: Device = station.engine.device
        self.plan = plan.suited(processor=self.device.immediate, stepped=subject.stepped)
        self.place: CardPlace = station.place(self.plan.options)
        dtype = plan.dtype
        if not subject.stepped and dtype == "auto":
            dtype = "fp32"  # as the aligner's handler has it
        self.dtype: torch.dtype = self.device.dtype(dtype)

    def on_card(self, work: Callable[[], Any]) -> Any:
        """Do something on the engine's thread, and wait for it."""
        return self.place.engine.call(work).result()

    def load(self, *, check: bool = True) -> float:
        """Read or make up the weights; returns the seconds.

        Raises:
            ModelUnavailable: There is no room for them, or they are not whole.
        """
        from ..device import short_name
        from ..verification.footprint import check_room

        if check:
            check_room(self.subject.parameters, short_name(self.dtype), self.device)
        begun = time.perf_counter()

        def load() -> None:
            self.subject.load(self.device, self.dtype)
            self.device.sync()

        self.on_card(load)
        return time.perf_counter() - begun

    def join(self) -> float:
        """Give the engine the models and open it; returns the seconds."""
        begun = time.perf_counter()
        self.subject.join(self.place)
        self._station.open()
        return time.perf_counter() - begun


@contextmanager
def opened(plan: Plan, source: Source) -> Iterator[Opened]:
    """Open the card of a plan for a subject."""
    subject = subject_of(plan.model, source)
    station = Station(plan.device, threads=plan.threads, ignore_stops=True)
    try:
        yield Opened(plan, subject, station)
    finally:
        station.close()
