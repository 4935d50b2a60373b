"""What a family offers to be measured: a `Subject`, found by the model's id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import ModelUnavailable

if TYPE_CHECKING:
    import torch

    from ..device import Device
    from ..station import CardPlace
    from .plan import Load

WAIT_S = 24 * 3600.0
"""Rows of a model that is too large for its processor take hours; somebody watches."""

SUBJECTS = {
    "acestep-captioner": ".captioner:CaptionerSubject",
    "csm-1b": ".csm:CsmSubject",
    "ming-omni-tts-0.5b": ".ming:MingSubject",
    "mms-300m-aligner": ".aligner:AlignerSubject",
    "moss-tts-nano-100m": ".moss:MossSubject",
}
"""The models with weights."""

UNITS = {"acestep-captioner": "tokens", "ming-omni-tts-0.5b": "patches"}
"""What a step of a model makes where that is no frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where weights come from.

    Attributes:
        folder: Of a checkpoint, or of a `config.json` for random weights; `None` for the published sizes.
        random: Whether the weights are made up.
        extra: The settings of the family.
    """

    folder: Path | None
    random: bool
    extra: dict[str, str]

    @property
    def size(self) -> str:
        """What the sizes are of."""
        return "published" if self.folder is None else "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request.

    Attributes:
        frames: Or tokens.
        audio_s: That were made, or heard.
        empty: Whether nothing came out: no frame, no sample or only zeros, no word.
        first_s: From the request to its first frame or token.
        step_ms: The mean step it took part in, where there are steps.
        batch_size: The most requests that ran with it, and it.
        bucket: The most slots that computed.
        output: The ids of tokens, where they can be compared with another side's.
    """

    frames: int
    audio_s: float
    empty: bool
    first_s: float | None = None
    step_ms: float | None = None
    batch_size: int = 1
    bucket: int | None = None
    output: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A component that can be run by itself.

    Attributes:
        name: For a table.
        prepare: Makes what has to be there, and returns the call that is timed.
    """

    name: str
    prepare: Callable[[], Callable[[], object]]


class Subject(Protocol):
    """A model of one family, made for a measurement.

    Attributes:
        unit: What a step makes: `frames`, `patches`, `tokens`.
        stepped: Whether it makes them in steps, as many as it is told; the aligner hears what there is.
        parameters: How many numbers it holds, known before they are loaded.
    """

    unit: str
    stepped: bool
    parameters: int

    def load(self, device: Device, dtype: torch.dtype) -> None:
        """Read or make up the weights; on the thread that the device is bound to.

        Raises:
            ModelUnavailable: The checkpoint is not whole, or of another model.
        """

    def step_bytes(self) -> int | None:
        """The weights that a step reads, each as often as it is read; `None` for a model without steps."""

    def join(self, place: CardPlace) -> None:
        """Give the engine what was loaded, as the handler does; from any thread."""

    def perform(self, place: CardPlace, number: int, load: Load) -> Answer:
        """Make one request of the load and wait for it; `number` is its seed."""

    def parts(self, device: Device, seq_len: int, *, graphs: bool) -> Sequence[Part]:
        """The components of what was loaded; nothing has joined an engine. With `graphs` steps are captured."""


def subject_of(model: str, source: Source) -> Subject:
    """The subject of a model.

    Raises:
        ModelUnavailable: The model has no weights that could be measured, a library is missing, or the
            configuration in the folder is of another model.
    """
    if model not in SUBJECTS:
        raise ModelUnavailable(
            f"{model} is measured by whole jobs only: leave out --random-weights, --frames, --components and "
            f"--against; those are for {', '.join(SUBJECTS)}"
        )
    module, _, name = SUBJECTS[model].partition(":")
    try:
        made: Subject = getattr(import_module(module, __package__), name)(source)
    except ImportError as error:
        raise ModelUnavailable(f"{model} needs {error.name}: pip install 'soundmill[models]'") from error
    return made
