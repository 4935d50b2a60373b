"""What the handlers of one card's process share: the helpers, and the engine when one of them needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .helpers import Helpers
from .place import ModelOptions

if TYPE_CHECKING:
    from .engine.engine import CardEngine
    from .engine.watch import Limits, Watch

T = TypeVar("T")


class Station:
    """The card of a process; its device is opened only for a model that computes on it."""

    def __init__(
        self,
        card: str,
        *,
        watch: Watch | None = None,
        limits: Limits | None = None,
        threads: int | None = None,
        ignore_stops: bool = False,
    ) -> None:
        """Name the card; nothing is opened or started.

        Args:
            card: Such as `npu:3`; `auto` is the best that is there.
            watch: Told what the engine does and how long that may take.
            limits: Of each phase of the engine.
            threads: With how many threads a processor computes; `None` leaves it to torch.
            ignore_stops: Whether rows always make as many frames as they may. For benchmarks only.
        """
        self._card = card
        self.helpers = Helpers()
        self._watch, self._limits, self._ignore_stops = watch, limits, ignore_stops
        self._threads = threads
        self._lock = threading.Lock()
        self._engine: CardEngine | None = None

    @property
    def card(self) -> str:
        """Its name, such as `npu:3`; of `auto`, once the device is open."""
        return self._card if self._engine is None else str(self._engine.device)

    def place(self, options: ModelOptions | None = None) -> CardPlace:
        """Where one handler is loaded."""
        return CardPlace(self, options or ModelOptions())

    @property
    def engine(self) -> CardEngine:
        """The card's engine; opens the device when first asked.

        Raises:
            ModelUnavailable: There is no torch, or no such card.
        """
        with self._lock:
            if self._engine is None:
                from .device import open_device
                from .engine.engine import CardEngine

                self._engine = CardEngine(
                    open_device(self._card, threads=self._threads),
                    watch=self._watch,
                    limits=self._limits,
                    ignore_stops=self._ignore_stops,
                )
            return self._engine

    @property
    def opened_engine(self) -> CardEngine | None:
        """The engine, if a model has asked for it."""
        return self._engine

    def open(self) -> None:
        """All handlers are loaded: divide the memory, capture, and take requests.

        Raises:
            CardFailed: The card did not survive it.
            ModelUnavailable: The memory left is too small for a model.
        """
        if self._engine is not None:
            self._engine.open()

    def close(self) -> None:
        """End the engine and the helpers."""
        if self._engine is not None:
            self._engine.close()
        self.helpers.close()


class CardPlace:
    """Where one handler is loaded; see `soundmill.models.place.Place`."""

    def __init__(self, station: Station, options: ModelOptions) -> None:
        self.options = options
        self._station = station

    @property
    def card(self) -> str:
        """Its name, such as `npu:3`."""
        return self._station.card

    @property
    def engine(self) -> CardEngine:
        """See `soundmill.models.place.Place.engine`."""
        return self._station.engine

    def offload(self, work: Callable[..., T], *args: Any) -> T:
        """See `soundmill.models.place.Place.offload`."""
        return self._station.helpers.run(work, *args)

    def warm(self, modules: Sequence[str]) -> None:
        """See `soundmill.models.place.Place.warm`."""
        self._station.helpers.warm(modules)
