"""What is measured: a `Plan`, and the loads in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

from ..errors import InputError
from ..place import Dtype, Graphs, ModelOptions
from .texts import TEXTS

Kind = Literal["rows", "jobs", "generate", "components"]

SLOTS_ON_A_CARD, SLOTS_ON_A_PROCESSOR = (1, 8, 32), (1, 8)
FRAMES_ON_A_CARD, FRAMES_ON_A_PROCESSOR = (128,), (16,)
SEQ_LEN = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one figure is of: so many requests at once, each so long.

    Attributes:
        slots: Requests that run together, and of a run.
        text: A name of `TEXTS`.
        frames: That each row makes, whatever the model says; `None` where the model ends it.
    """

    slots: int
    text: str
    frames: int | None = None

    def __str__(self) -> str:
        frames = "" if self.frames is None else f", {self.frames} frames"
        return f"{self.slots} at once, {self.text} text{frames}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A measurement.

    Attributes:
        model: Its id.
        kind: What is measured; see the package.
        device: `auto`, `cpu`, `cuda:1`, `npu:0`.
        checkpoint: The folder of the weights; with random weights its `config.json` gives the sizes.
        random_weights: Whether weights are made up: of the published size, or of that folder's.
        slots: Numbers of requests at once, each measured for itself; empty for those that suit the device.
        frames: Lengths of rows, likewise. The aligner makes as many as its clip has.
        texts: Names of `TEXTS`.
        warmup: Runs that are not counted.
        runs: Runs that are, of each load.
        dtype: See `ModelOptions`; so are `graphs`, `reproducible` and `extra`.
        threads: With how many a processor computes; `None` leaves it to torch.
        seq_len: Positions of a prompt and frames of a codec's call, of components.
        fields: Of jobs, for each text the arguments.
    """

    model: str
    kind: Kind = "rows"
    device: str = "auto"
    checkpoint: Path | None = None
    random_weights: bool = False
    slots: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    texts: tuple[str, ...] = ("medium",)
    warmup: int = 1
    runs: int = 3
    dtype: Dtype = "auto"
    graphs: Graphs = "auto"
    reproducible: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    seq_len: int = SEQ_LEN
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def checked(self) -> Self:
        """The same, if it can be measured.

        Raises:
            InputError: A number or a name is none.
        """
        numbers = {
            "slots": self.slots,
            "frames": self.frames,
            "runs": (self.runs,),
            "seq-len": (self.seq_len,),
        }
        for name, values in numbers.items():
            if any(value < 1 for value in values):
                raise InputError(f"{name}: {min(values)} is too few; give 1 or more")
        if self.warmup < 0:
            raise InputError(f"warmup: {self.warmup} is too few; give 0 or more")
        if unknown := next((name for name in self.texts if name not in TEXTS), None):
            raise InputError(f"text: there is no {unknown!r}; there are {', '.join(TEXTS)}")
        return self

    def suited(self, *, processor: bool, stepped: bool) -> Self:
        """The same with loads that suit device and model, where none were given.

        Raises:
            InputError: Frames were given for a model without steps.
        """
        slots = SLOTS_ON_A_PROCESSOR if processor else SLOTS_ON_A_CARD
        frames = FRAMES_ON_A_PROCESSOR if processor else FRAMES_ON_A_CARD
        if not stepped and self.frames:
            raise InputError(
                f"frames: {self.model} makes as many as its input has; choose how long that is by --text"
            )
        return replace(self, slots=self.slots or slots, frames=(self.frames or frames) if stepped else ())

    def loads(self) -> Iterator[Load]:
        """Every combination, the smallest first."""
        lengths: tuple[int | None, ...] = self.frames or (None,)
        for text, frames, slots in product(self.texts, lengths, self.slots):
            yield Load(slots=slots, text=text, frames=frames)

    @property
    def options(self) -> ModelOptions:
        """What the model is loaded with: slots for the largest load."""
        return ModelOptions(
            checkpoint=self.checkpoint,
            dtype=self.dtype,
            graphs=self.graphs,
            reproducible=self.reproducible,
            slots=max(self.slots, default=None),
            extra=self.extra,
        )

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object; `of_json` reads it."""
        return asdict(self) | {"checkpoint": None if self.checkpoint is None else str(self.checkpoint)}

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `as_json` wrote."""
        lists = {name: tuple(content[name]) for name in ("slots", "frames", "texts")}
        folder = content["checkpoint"]
        return cls(**{**content, **lists, "checkpoint": None if folder is None else Path(folder)})
