"""In front of the queue: submit jobs, wait for them, read what they made, from Python or a shell.

    with Producer() as producer:
        job = producer.submit(model="espeak-ng", args={"text": "Good morning."})
        print(job.wait(timeout_s=60).result)

The names are loaded when they are first used, so that `soundmill --help` need not wait for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aio import AsyncProducer
    from .errors import ProducerError, StackFailed, WaitTimedOut
    from .job import Job
    from .producer import Producer
    from .request import Request, Submission

__all__ = [
    "AsyncProducer",
    "Job",
    "Producer",
    "ProducerError",
    "Request",
    "StackFailed",
    "Submission",
    "WaitTimedOut",
]

_HOMES = {
    "AsyncProducer": "aio",
    "Job": "job",
    "Producer": "producer",
    "ProducerError": "errors",
    "Request": "request",
    "StackFailed": "errors",
    "Submission": "request",
    "WaitTimedOut": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
