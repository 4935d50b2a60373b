"""The toy of `toy.py` as a model that a worker serves, registered by the setting `plugins`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from soundmill.models.handler import Output, Run
from soundmill.models.place import Engine, Place
from soundmill.storage.arguments import Arguments
from soundmill.storage.catalog import Model


class ToyArguments(Arguments):
    """What the toy babbles on; `breaks_card` does so in the first attempt, at the fifth step."""

    length: int = 3
    seed: int = 0
    steps: int = 20
    breaks_card: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyRequest:
    """The arguments as the handler sees them."""

    length: int
    seed: int
    steps: int
    breaks_card: bool


class Toy:
    """A handler as those of real models: it prepares, waits for its row, and puts the output together."""

    request = ToyRequest

    def load(self, place: Place) -> None:
        """Add the model and its decoder to the card's engine."""
        # By name, and here: the supervisor reads this file, too, and needs no torch.
        self._toy: Any = import_module("toy")
        self._engine: Engine = place.engine
        model = self._engine.call(lambda: self._toy.Breakable(self._engine.device)).result()
        self._engine.add_slots("toy", model, options=place.options, decoder=self._toy.Superstitious())

    @property
    def slots(self) -> int:
        return self._engine.slots("toy")

    def perform(self, request: ToyRequest, run: Run) -> Output:
        """Babble."""
        first = cast(Any, run).job.attempt == 1
        prompt = self._toy.Prompt(
            ids=tuple(1 + number % 60 for number in range(request.length)),
            seed=request.seed,
            never=(self._toy.STOP,),
            breaks_card=request.breaks_card and first,
        )
        with run.phase("generation"):
            made = self._engine.generate(
                "toy", prompt, positions=request.length, max_steps=request.steps
            ).wait(run)
        return Output(result={"numbers": made.value}, metrics={"frames": made.steps, **made.metrics})

    def close(self) -> None:
        """Nothing to free."""


MODELS = [
    Model(
        id="toy",
        kind="toy",
        title="Babbles numbers",
        arguments=ToyArguments,
        handler=f"{__name__}:Toy",
        licence="Apache-2.0",
    )
]
