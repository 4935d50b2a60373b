"""Models without a queue: `load` one, or `run` a single request."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .handler import Counts, Handler
from .place import ModelOptions
from .station import Station

if TYPE_CHECKING:
    from .device import Device

_ENTRY_POINTS = "soundmill.direct"
"""Where the catalogue of models is found, which models know nothing of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What became of a request.

    Attributes:
        result: The small JSON that a job's row would hold.
        files: The files by their names.
        metrics: What the model measured, and the seconds of each phase.
        seconds: How long it took, without loading.
        real_time_factor: Seconds for each second of audio, where there is audio.
        card: Where it ran.
    """

    result: Mapping[str, Any]
    files: Mapping[str, Path]
    metrics: Mapping[str, float | int | str | bool]
    seconds: float
    real_time_factor: float | None
    card: str


def run(
    model_id: str,
    fields: Mapping[str, Any],
    *,
    checkpoint: Path | str | None = None,
    device: str = "auto",
    folder: Path | str | None = None,
    options: ModelOptions | None = None,
) -> Made:
    """Load a model, perform one request, and free the model.

    Args:
        model_id: Such as `csm-1b`; `soundmill models list` has them all.
        fields: The arguments by name, as for a job; those left out have the same defaults. Input audio
            is the path of a file.
        checkpoint: The folder of the weights; `None` looks where a worker would.
        device: `auto`, `cpu`, `cuda:1`, `npu:0`.
        folder: Where files are put; `None` makes a temporary folder, which is the caller's.
        options: What else an operator may choose.

    Raises:
        ModelUnavailable: A library, the weights or the card are missing.
        InputError: The request cannot be used as it is.
        Exception: `SubmitRefused`, from the catalogue, names the field that is wrong.
    """
    with load(model_id, checkpoint=checkpoint, device=device, options=options) as model:
        return model.run(fields, folder=folder)


def load(
    model_id: str,
    *,
    checkpoint: Path | str | None = None,
    device: str = "auto",
    options: ModelOptions | None = None,
    threads: int | None = None,
) -> Loaded:
    """Make a model ready for many requests; the arguments are those of `run`.

    Requests of several threads are batched, up to `Loaded.slots` of them. With `threads` a processor
    computes with so many.
    """
    dotted, usual = _entry("model")(model_id)
    folder = Path(checkpoint) if checkpoint is not None else usual
    chosen = replace(options or ModelOptions(), checkpoint=folder)
    module, _, name = dotted.partition(":")
    station = Station(device, threads=threads)
    try:
        handler: Handler = getattr(import_module(module), name)()
        handler.load(station.place(chosen))
        station.open()
    except BaseException:
        station.close()
        raise
    return Loaded(model_id, handler, station)


def handler_of(model_id: str) -> str:
    """The handler of a model as `module:Class`."""
    dotted: str = _entry("model")(model_id)[0]
    return dotted


def checkpoint_of(model_id: str) -> Path:
    """Where the checkpoint of a model is looked for; there may be none."""
    folder: Path = _entry("model")(model_id)[1]
    return folder


class Loaded:
    """A model that is ready; threads may share it. Close it, or use it as a context manager."""

    def __init__(self, model_id: str, handler: Handler, station: Station) -> None:
        """Made by `load`."""
        self._model_id = model_id
        self._handler = handler
        self._station = station

    @property
    def slots(self) -> int:
        """How many requests it performs together."""
        return self._handler.slots

    @property
    def card(self) -> str:
        """Where it runs, such as `npu:0`."""
        return self._station.card

    @property
    def device(self) -> Device | None:
        """The opened device, whose memory may be looked at; `None` for a model that computes on none."""
        engine = self._station.opened_engine
        return None if engine is None else engine.device

    def run(self, fields: Mapping[str, Any], *, folder: Path | str | None = None) -> Made:
        """Perform one request; see `soundmill.models.run`."""
        request = self._handler.request(**_entry("fields")(self._model_id, fields))
        scratch = Path(folder if folder is not None else tempfile.mkdtemp(prefix="soundmill-"))
        scratch.mkdir(parents=True, exist_ok=True)
        attempt = _Run(scratch)
        begun = time.perf_counter()
        output = self._handler.perform(request, attempt)
        seconds = time.perf_counter() - begun
        audio_s = output.metrics.get("audio_s")
        return Made(
            result=output.result,
            files={file.name: file.path for file in output.files},
            metrics={f"{name}_s": spent for name, spent in attempt.seconds.items()} | dict(output.metrics),
            seconds=seconds,
            real_time_factor=seconds / audio_s if isinstance(audio_s, float | int) and audio_s > 0 else None,
            card=self.card,
        )

    def close(self) -> None:
        """Free what was loaded."""
        self._handler.close()
        self._station.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Run:
    """The `Run` of a request that nobody cancels."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.seconds: dict[str, float] = defaultdict(float)

    def checkpoint(self, progress: float | None = None, made: Counts | None = None) -> None:
        """Go on."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the work."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun


def _entry(name: str) -> Callable[..., Any]:
    [point] = metadata.entry_points(group=_ENTRY_POINTS, name=name)
    function: Callable[..., Any] = point.load()
    return function
