"""The counters of batches, changed in the transaction that moves their jobs."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, bindparam, update

from .lifecycle import State
from .rows import Batch

_ADD = (
    update(Batch)
    .where(Batch.id == bindparam("batch"))
    .values({state.value: getattr(Batch, state.value) + bindparam(f"d_{state.value}") for state in State})
)


class Tally:
    """Collects the moves of one transaction and writes them once per batch.

    The batches are written last and in the order of their ids, so that two transactions on
    PostgreSQL that touch the same batches wait for each other instead of deadlocking.
    """

    def __init__(self) -> None:
        self._moves: Counter[tuple[str, str]] = Counter()

    def add(self, batch_id: str, state: str, count: int = 1) -> None:
        """Count jobs that are new in `state`."""
        self._moves[batch_id, state] += count

    def move(self, batch_id: str, old: str, new: str, count: int = 1) -> None:
        """Count jobs that went from `old` to `new`."""
        self._moves[batch_id, old] -= count
        self._moves[batch_id, new] += count

    def write(self, connection: Connection) -> None:
        """Apply what was collected."""
        batches = sorted({batch for (batch, _), count in self._moves.items() if count})
        if batches:
            connection.execute(
                _ADD,
                [
                    {"batch": batch} | {f"d_{state.value}": self._moves[batch, state] for state in State}
                    for batch in batches
                ],
            )
