"""What torch finds on this host, told by a process of its own: `python -m soundmill.models.device.report FILE`.

A broken installation can make `import torch` fail, abort the process or hang, and torch_npu writes to
the standard output; whoever asks stays unharmed by reading the file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable
from .card import Card
from .examination import LIMIT_S
from .health import check
from .opening import ORDER, cards_of, open_device


def report() -> dict[str, Any]:
    """Open every card that is visible and ask it for a known answer.

    Returns:
        `torch` (its version, or `None`), `threads`, `cards` (for each `card`, `name`, `ok`, `detail`,
        and where it could be opened the bytes of `total` and `usable`, `dtypes`, `graphs` and `fft`),
        and `troubles`: for a kind, what is wrong with its library.
    """
    told: dict[str, Any] = {"torch": None, "threads": None, "cards": [], "troubles": {}}
    for kind in ORDER:
        try:
            cards = cards_of(kind)
        except ModelUnavailable as error:
            told["troubles"][kind] = str(error)
            continue
        told["cards"] += [_look_at(card) for card in cards]
    if "torch" in sys.modules:
        import torch

        told |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return told


def _look_at(card: Card) -> dict[str, Any]:
    try:
        device = open_device(str(card))
        health, memory = check(device), device.memory()
    except (ModelUnavailable, RuntimeError) as error:
        return {"card": str(card), "name": None, "ok": False, "detail": str(error)}
    return {
        "card": str(card), "name": device.name, "ok": health.ok, "detail": health.detail,
        "total": memory.total, "usable": memory.usable, "dtypes": sorted(device.caps.dtypes),
        "graphs": device.caps.graphs, "fft": device.caps.fft,
    }  # fmt: skip


def main(file: str) -> None:
    """Write the report, whole or not at all."""
    path = Path(file)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report()))
    partial.rename(path)


if __name__ == "__main__":
    signal.alarm(LIMIT_S)  # see `examination.py`
    main(sys.argv[1])
    os._exit(0)
