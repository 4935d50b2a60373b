"""What a run left behind, in one file that can be judged again later. Nothing but JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that is judged; nothing but JSON.

    Attributes:
        run: What was asked for, and the settings that figures are relative to.
        keys: The idempotency keys of all that was to be submitted.
        jobs: Rows, and so on for the other tables.
        files: Of the store, by hash: whether the bytes still have it, and the first line of them.
        executions: The events of the handlers.
        answers: The events of the producers.
        faults: As they struck.
    """

    run: dict[str, Any]
    keys: list[str]
    jobs: Rows
    attempts: Rows
    artifacts: Rows
    parents: Rows
    batches: Rows
    blobs: list[str]
    files: dict[str, dict[str, Any]]
    executions: Rows
    answers: Rows
    faults: Rows

    def keep(self, path: Path) -> None:
        """Write it down."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Evidence:
        """Read what was written down."""
        return cls(**json.loads(path.read_text()))


def by(rows: Sequence[dict[str, Any]], name: str) -> dict[Any, Rows]:
    """Rows in groups of the same value."""
    groups: dict[Any, Rows] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups
