"""A seat is a card on which a checkpoint is run; here it is opened, loaded, asked and left."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..device import Device, Fault, open_device, short_name
from ..errors import CardFailed, ModelError, OutOfMemory
from .figures import as_host
from .footprint import check_room, parameters_in
from .ports import Component, Material, Reading, Tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .limits import Limits

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]

_LONGEST_WORDS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where one side is run.

    Attributes:
        card: Such as `npu:0`, `cpu`.
        threads: With how many threads a processor computes; `None` leaves it to torch.
        folder: Of its checkpoint, where that is not the one of both sides.
    """

    card: str
    threads: int | None = None
    folder: Path | None = None

    def __str__(self) -> str:
        if self.threads is None:
            return self.card
        return f"{self.card} ({self.threads} thread{'s' if self.threads > 1 else ''})"


class SeatFailed(Exception):
    """Nothing more can be asked of this seat; the message says why."""


@dataclass(slots=True, kw_only=True)
class Asked:
    """What one component of the reference side was asked, and what it answered, on the host.

    Attributes:
        cases: The inputs by case.
        answers: By case; empty where it failed.
        failure: Why it did.
    """

    readings: Mapping[str, Reading]
    limits: Mapping[str, Sequence[Limits]]
    spell: Callable[[Tensor], str] | None
    cases: Mapping[str, Tensors] = field(default_factory=dict)
    answers: Mapping[str, Tensors] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str | None = None


class Loaded:
    """The components of a checkpoint on a seat, made by `seated`."""

    def __init__(self, device: Device, components: Sequence[Component]) -> None:
        self.device = device
        self.components = components

    def ask(self, component: Component, cases: Mapping[str, Tensors]) -> tuple[dict[str, Tensors], float]:
        """Run a component over its cases.

        Returns:
            The answers on the host, and the seconds it took.

        Raises:
            SeatFailed: The card failed with it.
            ModelError: The component did, with a sentence.
        """
        import torch

        begun = time.perf_counter()
        answers: dict[str, Tensors] = {}
        with torch.inference_mode():
            for name, inputs in cases.items():
                with self._translated(component.name):
                    found = component.run(inputs)
                    answers[name] = {key: as_host(tensor) for key, tensor in found.items()}
        return answers, time.perf_counter() - begun

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            words, fault = explained(self.device, error), self.device.classify(error)
            logger.debug("a component failed", extra={"component": name}, exc_info=True)
            if fault in (Fault.FATAL, Fault.CARD):
                raise SeatFailed(f"{name}: {words}") from error
            raise ModelError(words) from error


def family_of(handler: str) -> ModuleType:
    """The module in which a handler's family offers its components.

    Args:
        handler: `module:Class`, as the catalogue has it.

    Raises:
        ModelError: The family has no weights that could be compared.
    """
    module = handler.partition(":")[0]
    found = find_spec(module)
    is_package = found is not None and found.submodule_search_locations is not None
    package = module if is_package else module.rpartition(".")[0]
    if find_spec(f"{package}.components") is None:
        raise ModelError("it has no weights, so there is nothing that a card could compute otherwise")
    return import_module(f"{package}.components")


@contextmanager
def opened(seat: Seat) -> Iterator[Device]:
    """Open the card of a seat for this thread, with exact products and convolutions.

    Raises:
        SeatFailed: There is no such card, or it cannot be opened.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        device = open_device(seat.card, threads=seat.threads)
    except (ModelError, RuntimeError) as error:
        raise SeatFailed(_one_line(str(error))) from error
    try:
        with device.exact_convolutions():
            yield device
    finally:
        torch.set_num_threads(threads)


@contextmanager
def seated(
    family: ModuleType, folder: Path, device: Device, dtype: torch.dtype, tell: Tell
) -> Iterator[Loaded]:
    """Load a checkpoint onto a card, and free it afterwards.

    Raises:
        SeatFailed: It cannot be loaded there.
    """
    name = short_name(dtype)
    loaded = Loaded(device, ())
    try:
        tell(f"{device}: {check_room(parameters_of(family, folder), name, device)}")
        loaded.components = family.components(folder, device, dtype)
    except Exception as error:
        logger.debug("a checkpoint cannot be loaded", extra={"card": str(device)}, exc_info=True)
        raise SeatFailed(explained(device, error)) from error
    try:
        yield loaded
    finally:
        loaded.components = ()
        gc.collect()
        with suppress(Exception):  # a card that failed cannot be tidied up
            device.empty_cache()


def parameters_of(family: ModuleType, folder: Path) -> int:
    """How many numbers a family loads of a folder."""
    counted: Any = getattr(family, "parameters", None)
    return int(counted(folder)) if counted else parameters_in(sorted(folder.rglob("*.safetensors")))


def ask_reference(loaded: Loaded, material: Material, tell: Tell) -> dict[str, Asked]:
    """Make the cases of all components, and answer them.

    Raises:
        SeatFailed: The card failed.
    """
    import torch

    found: dict[str, Asked] = {}
    for component in loaded.components:
        tell(f"{loaded.device}: {component.name}")
        asked = Asked(readings=component.readings, limits=component.limits, spell=component.spell)
        found[component.name] = asked
        known = {name: one.answers for name, one in found.items() if one.answers}
        try:
            with torch.inference_mode():
                asked.cases = component.cases(material, known)
            asked.answers, asked.seconds = loaded.ask(component, asked.cases)
        except ModelError as error:
            asked.failure = str(error)
        except KeyError as error:  # what it is made from is not there, as that component failed
            asked.failure = f"its inputs come from {error}, which did not answer"
    return found


def explained(device: Device, error: BaseException) -> str:
    """An exception as a clause for people."""
    failure = error if isinstance(error, ModelError) else device.failure(error)
    match failure:
        case OutOfMemory():
            words = f"{device} has too little memory ({failure}); free some, or choose another card"
        case CardFailed():
            words = f"{device} failed, and nothing more can be asked of it: {failure}"
        case None:
            words = f"{type(error).__name__}: {error}"
        case _:
            words = str(failure)
    return _one_line(words)


def _one_line(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= _LONGEST_WORDS else f"{line[:_LONGEST_WORDS]}…"
