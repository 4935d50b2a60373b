"""The two ports between the engine and a model: `SlotModel` and `BatchModel`.

Everything here is called on the engine's thread, the only one that touches device tensors. A
handler's threads prepare prompts from CPU tensors before and receive CPU results after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

T_co = TypeVar("T_co", covariant=True)
I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")
Prompt = TypeVar("Prompt")


@dataclass(slots=True, kw_only=True, eq=False)
class Row(Generic[Prompt]):
    """A request that holds a slot.

    Attributes:
        prompt: What the handler prepared; CPU tensors and plain values. Sampling parameters and the
            seed are in it.
        positions: How many positions of the slot's cache the prompt takes, at least 1.
        max_steps: The row is stopped after so many steps, whatever the model says.
        slot: Which one it holds; the engine changes it when it moves the row.
        filled: How many positions of the prompt are done. The model advances it in `prefill`, and
            only after the device accepted the work, so that a failed call can be repeated.
        ready: Set by the model when the prompt is done: the next `step` makes the first frame.
        steps: How many steps the row took part in; counted by the engine.
    """

    prompt: Prompt
    positions: int
    max_steps: int
    slot: int
    filled: int = 0
    ready: bool = False
    steps: int = 0


class Stops(Protocol):
    """The stop flags of one step, on their way to the host."""

    def read(self) -> Sequence[bool]:
        """Wait for the step and return, for each slot of the bucket, whether its row ended with it.

        A step that stops a row made no frame for it: what it left is no part of the output. The
        engine reads the flags after it has launched the next step.
        """


class SlotModel(Protocol[Prompt, T_co]):
    """An autoregressive model that decodes the rows of many requests in slots.

    A step is one launch for the slots 0 … bucket − 1. Idle slots among them compute, too, and harm
    nobody. What a row draws and produces never depends on the other rows, its slot or the time
    at which it joined (in fp32 bit for bit, see `draws.py`).

    A model may also have `dtype`, the type of its weights, which is reported with each result;
    `step_s`, how much audio a step makes, in seconds, without which its steps count as tokens;
    `warm_up(bucket)`, which runs the step of a bucket in every shape that it can take, so that all are
    captured before the first request (without it the engine steps each bucket with no rows); and
    `rehearse`, see `Rehearses`.
    """

    @property
    def context(self) -> int:
        """Positions of one slot, prompt and steps together.

        Caches hold one more, since a stop is read one step late.
        """

    @property
    def bytes_per_slot(self) -> int:
        """What a slot costs in caches and state, computed from the configuration."""

    def reserve(self, slots: int) -> None:
        """Make caches and state for `slots` rows; what rows below that number hold is kept.

        Called before the intake opens and after an out-of-memory with a smaller number, 0 among them:
        then nothing is kept. It must not hold the old and the new cache of more than one layer at once.
        Captured steps are void afterwards.
        """

    def prefill(self, rows: Sequence[Row[Prompt]], token_budget: int) -> None:
        """Run up to `token_budget` positions of the prompts of `rows`, ragged, in one or few calls.

        A row may need several turns; `Row.filled` and `Row.ready` say how far it is. On the first
        turn of a row (`filled == 0`) its state is reset, its sampling parameters and draws are set.

        Raises:
            torch.OutOfMemoryError: Nothing has advanced; the engine repeats it with half the budget.
        """

    def step(self, bucket: int, rows: Sequence[Row[Prompt]]) -> Stops:
        """Make one frame or token for every slot below `bucket`, without waiting for the device.

        Args:
            bucket: How many slots take part, one of the engine's bucket sizes.
            rows: Those that are ready; the model may need their host-side counters (`Row.steps`,
                the index of the step that is about to run) to refill its draws. Of the other slots
                below `bucket` it must change nothing: a prompt may be half done there. A row that is
                not among them, though it is ready, has made all its steps and is about to be released.

        Raises:
            torch.OutOfMemoryError: No row has advanced, since counters are moved last. The engine
                repeats the step with fewer slots.
        """

    def move(self, source: int, target: int) -> None:
        """Copy everything that a row holds from one slot to another, free one."""

    def release(self, row: Row[Prompt], steps: int) -> T_co:
        """Take what the row made in its first `steps` steps out of its slot and leave nothing behind.

        The result belongs to the request (device tensors allowed, if there is a decoder): the slot is
        taken by another row at once. `steps` is 0 when the request was cancelled or failed, also amid
        its prompt.
        """


@dataclass(slots=True, kw_only=True, eq=False)
class Item(Generic[I, R]):
    """A piece of work for a batch model.

    Attributes:
        payload: What the handler, or a slot model's `release`, gave.
        state: The model's own notes between two calls, such as the state of a streaming codec.
        progress: The share done, 0 to 1, where the model knows it.
        done: Set by the model, with `result` (CPU data) or `error` (a `ModelError` of this item alone).
    """

    payload: I
    state: Any = None
    progress: float | None = None
    done: bool = False
    result: R | None = None
    error: Exception | None = None
    metrics: dict[str, float | int | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Took:
    """What one call of a batch model did.

    Attributes:
        items: How many items it worked on, of those it was offered.
        padding: The part of what was computed that belonged to none of them, 0 to 1.
    """

    items: int
    padding: float


class BatchModel(Protocol[I, R]):
    """A model without slots: encoders, codec decoders, the aligner's emissions.

    It may also have `took`, the `Took` of its last call, for the metrics. Without it a call counts with all
    items that it was offered.
    """

    @property
    def max_items(self) -> int:
        """The most items that one call is offered, oldest first."""

    def run(self, items: Sequence[Item[I, R]], time_budget_s: float) -> None:
        """Do one bounded piece of the work of `items`, batched across them.

        It chooses how much of which: a call should take about `time_budget_s` (50 ms), so that no
        running slot of another model waits longer. An item that is not done is offered again.

        Raises:
            torch.OutOfMemoryError: No item has advanced; the engine repeats the call with half of
                the items, and a lone item with a tenth of the time before it gives it up.
        """


@runtime_checkable
class Rehearses(Protocol):
    """A slot or batch model that can show what its hungriest call takes, before the memory is divided."""

    def rehearse(self, token_budget: int) -> None:
        """Run the largest call with made-up data, as warm-up and for its peak of memory.

        A slot model has one slot then: its largest prefill (of `token_budget` positions) and a step. A
        batch model: its largest piece of work. Nothing may be left behind.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated(Generic[R]):
    """What became of one request in the engine.

    Attributes:
        value: The decoder's result, or what `release` returned where the model has no decoder.
        steps: Frames or tokens that the row made.
        stopped: Whether the model ended it (`False`: `max_steps` did).
        metrics: `queue_s`, `prefill_s`, `first_step_s` (from submission to the first frame),
            `generation_s`, `decode_s`, `batch_size` (largest seen), `step_ms` (mean), `bucket`, `dtype`.
    """

    value: R
    steps: int
    stopped: bool
    metrics: Mapping[str, float | int | str | bool]
