"""Whole jobs by a model's handler, from text and files to files: the kind `jobs`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import audio
from ..direct import Loaded, Made, checkpoint_of, load
from .figures import significant
from .footprint import Footprint
from .plan import SLOTS_ON_A_CARD, SLOTS_ON_A_PROCESSOR
from .results import heading
from .session import Gate, Tell, source_of
from .subject import SUBJECTS, UNITS, Answer
from .tally import Turn, cells_of, take_turn

if TYPE_CHECKING:
    import torch

    from ..device import Device
    from .plan import Load, Plan

ALIGNER = "mms-300m-aligner"
"""It computes in fp32 always."""

_WORDS = ("caption.txt", "alignment.json")
_FIRST = ("first_step_s", "first_token_s")


def measure_jobs(plan: Plan, tell: Tell, gate: Gate) -> dict[str, Any]:
    """See `session.measure`. The document has `cells` and `refused` as that of rows; nothing ignores a stop."""
    weighty = plan.model in SUBJECTS
    folder = (plan.checkpoint or checkpoint_of(plan.model)) if weighty else None
    usual = SLOTS_ON_A_PROCESSOR if plan.device.startswith(("cpu", "auto")) else SLOTS_ON_A_CARD
    plan = replace(plan, slots=plan.slots or usual, frames=(), checkpoint=folder)
    if weighty:
        source_of(plan)
    tell("loading")
    begun = time.perf_counter()
    options = replace(plan.options, checkpoint=None)
    with load(
        plan.model, checkpoint=plan.checkpoint, device=plan.device, options=options, threads=plan.threads
    ) as model:
        load_s, footprint = time.perf_counter() - begun, Footprint(model.device)
        unit = UNITS.get(plan.model, "frames")
        document = heading(plan, model.device, _dtype(plan, model.device)) | {"unit": unit}
        document |= {
            "load_s": significant(load_s),
            "memory": {"loaded_bytes": footprint.now()},
        }
        gate()
        with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as scratch:
            turn = _Jobs(plan, model, Path(scratch)).turn
            document |= cells_of(plan, turn, unit=unit, footprint=footprint, floor_ms=None, tell=tell)
    document["memory"]["peak_bytes"] = max(cell["peak_bytes"] for cell in document["cells"])
    return document


class _Jobs:
    """The loads of a plan, made of the arguments in it."""

    def __init__(self, plan: Plan, model: Loaded, folder: Path) -> None:
        self._plan, self._model, self._folder = plan, model, folder
        self._turns = 0

    def turn(self, load: Load) -> Turn:
        """Run a load once."""
        self._turns += 1
        scratch = self._folder / str(self._turns)
        return take_turn(lambda number: self._perform(load, scratch / str(number)), load.slots)

    def _perform(self, load: Load, folder: Path) -> Answer:
        return answer_of(self._model.run(self._plan.fields[load.text], folder=folder))


def answer_of(made: Made) -> Answer:
    """What became of a job, in the terms of a benchmark; its files are looked at, and not kept."""
    metrics: Mapping[str, Any] = made.metrics
    first = next((metrics[name] for name in _FIRST if name in metrics), None)
    answer = Answer(
        frames=int(metrics.get("frames", metrics.get("tokens", metrics.get("steps", 0)))),
        audio_s=float(metrics.get("audio_s", 0.0)),
        empty=not any(map(_says_something, _telling(made.files))),
        first_s=None if first is None else float(first),
        step_ms=float(metrics["step_ms"]) if metrics.get("step_ms") else None,
        batch_size=int(metrics.get("batch_size", 1)),
        bucket=int(metrics["bucket"]) if "bucket" in metrics else None,
    )
    for path in made.files.values():
        path.unlink(missing_ok=True)
    return answer


def _telling(files: Mapping[str, Path]) -> list[Path]:
    """The files that say whether anything came out: others hold more than that in any case."""
    audible = [path for path in files.values() if path.suffix.lstrip(".") in audio.MEDIA_TYPES]
    return audible or [files[name] for name in _WORDS if name in files][:1] or list(files.values())


def _says_something(path: Path) -> bool:
    """Whether a file holds more than silence, blanks or an empty list."""
    if path.suffix.lstrip(".") in audio.MEDIA_TYPES:
        return any(bool(np.any(block)) for block in audio.blocks(path))
    if path.name == "alignment.json":
        return bool(json.loads(path.read_text(encoding="utf-8")).get("words"))
    return bool(path.read_text(encoding="utf-8", errors="replace").strip())


def _dtype(plan: Plan, device: Device | None) -> torch.dtype | None:
    if device is None:
        return None
    return device.dtype("fp32" if plan.model == ALIGNER else plan.dtype)
