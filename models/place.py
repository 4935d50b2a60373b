"""Where a handler is loaded: the card, what the operator chose for the model, and the card's engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from .device import Device
    from .engine.ports import BatchModel, Generated, SlotModel
    from .handler import Run

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Dtype = Literal["auto", "fp32", "fp16", "bf16"]
Graphs = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What an operator may set for one model on a card.

    Attributes:
        checkpoint: The folder of the weights in their published layout.
        dtype: Of the weights and the arithmetic that tolerates it. `auto` is bf16 where the card has
            it, else fp32; codecs and the aligner are fp32 always.
        graphs: Whether steps are captured; `auto` where the card can.
        slots: How many rows run together; `None` leaves it to the memory that is free.
        share: The part, 0 to 1, of the free memory that this model may use for slots.
        reproducible: Whether 16-bit results depend on nothing but the request: every step takes all slots
            and one length of caches, every prompt is run alone and padded. It costs speed; in fp32 it
            is not needed.
        extra: Settings of one family, such as `flow_steps`; an unknown one is an error.
    """

    checkpoint: Path | None = None
    dtype: Dtype = "auto"
    graphs: Graphs = "auto"
    slots: int | None = None
    share: float | None = None
    reproducible: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)


class Ticket(Protocol[T_co]):
    """A request in the engine, as the thread that asked for it sees it."""

    @property
    def metrics(self) -> Mapping[str, float | int | str | bool]:
        """Figures of the request, once it has ended; those of a batch model are found here only."""

    def wait(self, run: Run) -> T_co:
        """Wait for the end, passing `run.checkpoint` on; progress flows to it at a bounded rate.

        Raises:
            ModelError: What ended this request alone.
            Interrupted: From the run; the request leaves its slot at the next step.
        """

    def cancel(self) -> None:
        """Let it leave its slot at the next step; its end is not waited for."""


class Engine(Protocol):
    """What handlers may do with the engine of their card. All of it is thread-safe."""

    @property
    def device(self) -> Device:
        """The opened card; its tensors are touched in `call` only."""

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run something short on the engine's thread: loading weights, moving them to the card."""

    def add_slots(
        self,
        name: str,
        model: SlotModel[Any, Any],
        *,
        options: ModelOptions,
        decoder: BatchModel[Any, Any] | None = None,
    ) -> None:
        """Take up a slot model, before the engine opens; what its rows release goes to `decoder`."""

    def add_batch(self, name: str, model: BatchModel[Any, Any]) -> None:
        """Take up a batch model, before the engine opens."""

    def slots(self, name: str) -> int:
        """How many slots a slot model has; known once the engine is open."""

    def generate(self, name: str, prompt: Any, *, positions: int, max_steps: int) -> Ticket[Generated[Any]]:
        """Ask for one row of a slot model.

        Raises:
            InputError: Prompt and steps do not fit the context of a slot.
        """

    def process(self, name: str, payload: Any) -> Ticket[Any]:
        """Ask a batch model for one item."""


class Place(Protocol):
    """Where one handler is loaded; `station.py` has the real one.

    Attributes:
        options: For this model.
    """

    options: ModelOptions

    @property
    def card(self) -> str:
        """Its name, such as `npu:3`."""

    @property
    def engine(self) -> Engine:
        """The card's engine; its device is opened when it is first asked for.

        Raises:
            ModelUnavailable: There is no torch, or no such card.
        """

    def offload(self, work: Callable[..., T], *args: Any) -> T:
        """Run a picklable function in the helper pool, which was started before the device opened.

        Text normalisation, romanisation, mel spectra, resampling and audio encoding belong there: a
        busy Python thread of the card's process would slow every step.
        """

    def warm(self, modules: Sequence[str]) -> None:
        """Let the helpers import these modules ahead of the first request."""
