"""The JSON document of a measurement: its heading. What was measured is added by the kinds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..device import short_name
from ..stamp import stamp
from .texts import TEXTS, Text

if TYPE_CHECKING:
    import torch

    from ..device import Device
    from .plan import Plan
    from .subject import Source, Subject

FORMAT = 1
"""Of the document; raised when a reader of older ones would misread it."""


def heading(plan: Plan, device: Device | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """What was asked for, and where and with what it is measured.

    Args:
        device: Where; `None` for a model that needs no torch.
        dtype: Of the weights.
    """
    return {
        "soundmill": "bench",
        "format": FORMAT,
        "model": plan.model,
        "kind": plan.kind,
        "stamp": stamp(
            device,
            card=plan.device,
            dtype=None if dtype is None else short_name(dtype),
            checkpoint=plan.checkpoint,
            random_weights=plan.random_weights,
        ).as_json(),
        "run": {
            "warmup": plan.warmup,
            "runs": plan.runs,
            "slots": list(plan.slots),
            "frames": list(plan.frames),
            "texts": {name: _shape(TEXTS[name]) for name in plan.texts},
            "graphs": plan.graphs,
            "reproducible": plan.reproducible,
            # Of a folder on somebody's disk only the name is anybody's business.
            "settings": {name: Path(value).name for name, value in plan.extra.items()},
            "ignore_stop": plan.kind in ("rows", "generate"),
        },
    }


def _shape(text: Text) -> dict[str, float]:
    """How much a text is: of a job its words, of a row's prompt so many tokens, of a listener's clip its length."""
    return {"characters": len(text.words), "tokens": text.tokens, "clip_s": text.clip_s}


def sizes(subject: Subject, source: Source) -> dict[str, Any]:
    """How large the model is, and what its sizes are of."""
    return {
        "size": "published" if source.folder is None else "of its folder",
        "parameters": subject.parameters,
        "unit": subject.unit,
    }
