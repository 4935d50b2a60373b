"""The process of one card among several: `python -m soundmill.models.bench FOLDER`, started by `cards.py`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .cards import ERROR, GO, PLAN, READY, RESULT
from .plan import Plan
from .session import measure
from .tally import NothingMade

_LOOK_EVERY_S = 0.02


def main(folder: Path) -> int:
    """Measure what the plan in a folder says; leave a result or an error there.

    Returns:
        The exit status.
    """

    def gate() -> None:
        (folder / READY).touch()
        parent = os.getppid()
        while not (folder / GO).exists() and os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)

    try:
        plan = Plan.of_json(json.loads((folder / PLAN).read_text()))
        _leave(folder / RESULT, measure(plan, gate=gate))
    except (ModelError, NothingMade) as error:
        _leave(folder / ERROR, {"error": str(error)})
        return 1
    return 0


def _leave(path: Path, content: dict[str, Any]) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.rename(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
