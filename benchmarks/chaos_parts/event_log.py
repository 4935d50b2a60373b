"""The append-only log of what happened, written by every process of a run and read when it is over."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIABLE = "CHAOS_LOG"


def note(what: str, *, path: Path | str | None = None, **facts: Any) -> None:
    """Append one line, in one write: processes that die in the middle leave no half of it.

    Args:
        what: The word for the event.
        path: The log; `None` takes the one that the environment names.
        **facts: What belongs to it.
    """
    line = json.dumps({"t": time.time(), "what": what, **facts}) + "\n"
    descriptor = os.open(path or os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, in the order in which they were written."""
    if path.exists():
        with path.open(encoding="utf-8") as log:
            yield from (json.loads(line) for line in log)
