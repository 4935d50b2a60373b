"""The whole of it: `verify` runs the reference once, then every seat against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..direct import handler_of
from ..errors import ModelError
from ..place import ModelOptions
from ..stamp import Stamp, stamp
from .comparison import Comparison, Strictness
from .end_to_end import Hearing, Outcome, judge_trials, score_speech, try_out
from .limits import PAGES
from .seats import Asked, Seat, SeatFailed, Tell, ask_reference, explained, family_of, opened, seated
from .verdicts import Line

if TYPE_CHECKING:
    import torch

    from ..device import Device
    from .ports import Material, Trial

_REFERENCE_DTYPE = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be verified.

    Attributes:
        model: Such as `csm-1b`.
        folder: Of its checkpoint.
        reference: The side that is believed.
        examined: The sides that are not.
        material: What both are fed with.
        options: Of the handler; its `dtype` is the serving dtype.
        strictness: See `comparison.py`.
        end_to_end: Whether the handler is tried as well.
    """

    model: str
    folder: Path
    reference: Seat
    examined: Sequence[Seat]
    material: Material
    options: ModelOptions = field(default_factory=ModelOptions)
    strictness: Strictness = "rounding"
    end_to_end: bool = True


@dataclass(slots=True, kw_only=True)
class Side:
    """What is told of one seat.

    Attributes:
        dtype: The serving dtype, which was compared besides fp32.
        failure: Why it could not be asked further.
        lines: A line for each tensor; empty for the reference.
        hearings: A line for each trial.
    """

    seat: Seat
    dtype: str | None = None
    stamp: Stamp | None = None
    failure: str | None = None
    lines: list[Line] = field(default_factory=list)
    hearings: list[Hearing] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all that was judged passed, and something was."""
        judged: list[Line | Hearing] = [*self.lines, *self.hearings]
        return self.failure is None and bool(judged) and all(line.verdict != "fail" for line in judged)

    @property
    def failed(self) -> list[str]:
        """A sentence for each thing that failed, in the order in which a reader should look at them."""
        found = [] if self.failure is None else [self.failure]
        judged = [(f"{line.name} in {line.dtype}", line.reasons) for line in self.lines]
        judged += [(f"end to end, {hearing.trial}", hearing.reasons) for hearing in self.hearings]
        return found + [f"{name}: {'; '.join(reasons)}" for name, reasons in judged if reasons]

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {
            "card": self.seat.card,
            "threads": self.seat.threads,
            "ok": self.ok,
            "dtype": self.dtype,
            "failure": self.failure,
            "failed": self.failed,
            "stamp": None if self.stamp is None else self.stamp.as_json(),
            "components": [line.as_json() for line in self.lines],
            "end_to_end": [hearing.as_json() for hearing in self.hearings],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What became of an order."""

    order: Order
    reference: Side
    sides: Sequence[Side]

    @property
    def ok(self) -> bool:
        """Whether every examined side passed."""
        return self.reference.failure is None and bool(self.sides) and all(side.ok for side in self.sides)

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object; nothing in it is NaN."""
        reference = self.reference.as_json()
        for judged in ("ok", "failed", "components", "end_to_end"):
            del reference[judged]
        material = self.order.material
        return {
            "model": self.order.model,
            "ok": self.ok,
            "limits": self.order.strictness,
            "published_page": PAGES.get(self.order.model),
            "seed": material.seed,
            "audio": material.audio.name,
            "texts": {name: asdict(text) for name, text in material.texts.items()},
            "reference": reference,
            "devices": [side.as_json() for side in self.sides],
        }


def verify(order: Order, tell: Tell = lambda _: None) -> Verification:
    """Compare the sides of an order.

    Args:
        order: What to compare.
        tell: Gets a line for each step, for people who wait.

    Raises:
        ModelError: The model has no components that could be compared.
    """
    return _Verifying(order, tell).run()


class _Verifying:
    def __init__(self, order: Order, tell: Tell) -> None:
        self._order = order
        self._tell = tell
        self._family: ModuleType = family_of(handler_of(order.model))
        self._reference = Side(seat=order.reference)

    def run(self) -> Verification:
        order = self._order
        sides = [Side(seat=seat) for seat in order.examined]
        asked = self._ask()
        if asked is not None:
            for side in sides:
                self._examine(side, Comparison(asked, order.strictness, self._tell))
            if order.end_to_end:
                self._try_out(sides)
        return Verification(order=order, reference=self._reference, sides=sides)

    def _folder(self, seat: Seat) -> Path:
        return seat.folder or self._order.folder

    def _ask(self) -> Mapping[str, Asked] | None:
        """The reference's answers; `None` where it cannot be asked."""
        side = self._reference
        side.dtype = _REFERENCE_DTYPE
        folder = self._folder(side.seat)
        try:
            with opened(side.seat) as device:
                side.stamp = stamp(device, dtype=_REFERENCE_DTYPE, checkpoint=folder)
                dtype = device.dtype(_REFERENCE_DTYPE)
                with seated(self._family, folder, device, dtype, self._tell) as loaded:
                    return ask_reference(loaded, self._order.material, self._tell)
        except SeatFailed as error:
            side.failure = f"the reference: {error}"
            return None

    def _examine(self, side: Side, comparison: Comparison) -> None:
        folder = self._folder(side.seat)
        try:
            with opened(side.seat) as device:
                dtypes = self._dtypes(side, device)
                side.stamp = stamp(device, dtype=side.dtype, checkpoint=folder)
                for number, (name, dtype) in enumerate(dtypes.items()):
                    with seated(self._family, folder, device, dtype, self._tell) as loaded:
                        comparison.lines(loaded, side.lines, only=name if number else None)
        except SeatFailed as error:
            side.failure = str(error)

    def _dtypes(self, side: Side, device: Device) -> dict[str, torch.dtype]:
        """fp32, and the serving dtype where that is another."""
        from ..device import short_name

        wanted = _REFERENCE_DTYPE if getattr(self._family, "FP32_ONLY", False) else self._order.options.dtype
        try:
            serving = device.dtype(wanted, validated_fp16=True)
            exact = device.dtype(_REFERENCE_DTYPE)
        except ModelError as error:
            raise SeatFailed(explained(device, error)) from error
        side.dtype = short_name(serving)
        return {_REFERENCE_DTYPE: exact, side.dtype: serving}

    def _try_out(self, sides: Sequence[Side]) -> None:
        trials: Sequence[Trial] = self._family.trials(self._order.material)
        alive = [side for side in sides if side.failure is None]
        if not alive:
            return
        with ExitStack() as stack:
            # What the operator chose is for the examined sides; the reference is as exact as it serves.
            exact = replace(self._order.options, dtype="auto")
            asked = [(self._reference.seat, exact), *((side.seat, self._order.options) for side in alive)]
            outcomes = [self._outcomes(seat, trials, options, stack) for seat, options in asked]
            score_speech(trials, outcomes, self._reference.seat.card, self._tell)
        for side, found in zip(alive, outcomes[1:], strict=True):
            side.hearings = judge_trials(trials, found, outcomes[0])

    def _outcomes(
        self, seat: Seat, trials: Sequence[Trial], options: ModelOptions, stack: ExitStack
    ) -> dict[str, Outcome]:
        order = self._order
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="soundmill-verify-")))
        return try_out(order.model, order.folder, seat, trials, options, scratch, self._tell)
