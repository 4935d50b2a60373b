"""Remote control: Celery's `revoke` and `terminate`, replaced by ours.

Celery keeps revoked ids in the memory of each worker for hours and would discard a later retry
under the same id. Here a revoke, be it Flower's or a producer's, cancels the job in the table and
stops it where it runs; nothing is remembered.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Protocol

from celery.worker.control import Panel, control_command, inspect_command


class Cancels(Protocol):
    """What the commands need of the card's process."""

    def cancel_jobs(self, ids: Iterable[str]) -> None:
        """Cancel the jobs in the table and stop those that run here."""


def _cancel(state: Any, task_id: str | list[str]) -> dict[str, str]:
    ids = [task_id] if isinstance(task_id, str) else list(task_id)
    canceller: Cancels = state.app.canceller
    # Not in the hub's thread: it must not wait for the database.
    threading.Thread(target=canceller.cancel_jobs, args=(ids,), name="cancel", daemon=True).start()
    return {"ok": f"cancelling {len(ids)} job(s)"}


# They change a worker in ways that its supervisor, its limits or its queues do not know of.
for _name in (
    "add_consumer", "autoscale", "cancel_consumer", "election", "memdump", "memsample", "objgraph", "pool_grow",
    "pool_restart", "pool_shrink", "rate_limit", "revoke_by_stamped_headers", "time_limit",
):  # fmt: skip
    Panel.data.pop(_name, None)


@inspect_command(name="stats")
def stats(state: Any, **_: Any) -> dict[str, Any]:
    """What Flower's page of a worker shows, without the addresses that may hold passwords."""
    found: dict[str, Any] = state.consumer.controller.stats()
    broker = found.get("broker")
    if isinstance(broker, dict):
        shown = ("hostname", "port", "virtual_host", "transport", "uri_prefix")
        found["broker"] = {name: broker[name] for name in shown if name in broker}
    return found


@control_command(name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: str | list[str], **_: Any) -> dict[str, str]:
    """Cancel jobs by id; a running one stops within a step."""
    return _cancel(state, task_id)


@control_command(
    name="terminate", variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [... [idN]]]"
)
def terminate(state: Any, signal: str, task_id: str | list[str], **_: Any) -> dict[str, str]:
    """The same as `revoke`, whatever the signal."""
    del signal
    return _cancel(state, task_id)
