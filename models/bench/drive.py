"""Components of a model as calls that can be timed: what the engine asks of its ports, for one row or item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..device.graph import WARM_CALLS
from ..engine.ports import BatchModel, Item, Row, SlotModel
from ..engine.schedule import PREFILL_TOKENS
from .subject import Part

_BEGIN = 8  # positions before the steps that are timed
_CALL_S = 3600.0  # an item is done in as few calls as the model allows


def slot_parts(model: SlotModel[Any, Any], prompt: Callable[[int], Any], seq_len: int) -> list[Part]:
    """The two things that a slot model does, for one row.

    Args:
        model: Without slots so far.
        prompt: Makes one of so many positions.
        seq_len: Positions of the prompt that is timed.
    """

    def read() -> Callable[[], object]:
        model.reserve(1)
        asked = prompt(seq_len + 1)  # the last position is left to the first step

        def call() -> None:
            row = _filled(model, asked, seq_len + 1)
            model.release(row, 0)

        return call

    def step() -> Callable[[], object]:
        model.reserve(1)
        for _ in range(WARM_CALLS + 1):
            model.step(1, ()).read()
        return _Stepping(model, prompt(_BEGIN)).step

    return [Part(name=f"prompt, {seq_len} positions", prepare=read), Part(name="step, 1 row", prepare=step)]


def batch_part(name: str, model: BatchModel[Any, Any], payload: Callable[[], Any]) -> Part:
    """A batch model, for one item."""

    def prepare() -> Callable[[], object]:
        asked = payload()

        def call() -> None:
            item: Item[Any, Any] = Item(payload=asked)
            while not item.done:
                model.run([item], _CALL_S)
            if item.error is not None:
                raise item.error

        return call

    return Part(name=name, prepare=prepare)


class _Stepping:
    """A row that goes on for as long as it is asked to."""

    def __init__(self, model: SlotModel[Any, Any], prompt: Any) -> None:
        self._model, self._prompt = model, prompt
        self._row = _filled(model, prompt, _BEGIN)

    def step(self) -> None:
        if self._row.steps == self._row.max_steps:
            self._model.release(self._row, 0)
            self._row = _filled(self._model, self._prompt, _BEGIN)
        self._model.step(1, [self._row]).read()
        self._row.steps += 1


def _filled(model: SlotModel[Any, Any], prompt: Any, positions: int) -> Row[Any]:
    row = Row(prompt=prompt, positions=positions, max_steps=model.context - positions, slot=0)
    while not row.ready:
        model.prefill(_only(row), PREFILL_TOKENS)
    return row


def _only(row: Row[Any]) -> Sequence[Row[Any]]:
    return (row,)
