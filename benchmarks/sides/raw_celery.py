"""The other side of `queue.py`: a bare Celery worker with our pool and settings, and a task that counts.

Started by the benchmark: `python benchmarks/sides/raw_celery.py BROKER_URL COUNTER_FILE THREADS QUEUE`.
On the queue `acknowledged` messages are copied and acknowledged as Celery does it on Redis by default;
on `plain` they are not, as in our own worker, whose job table makes that needless.
"""

from __future__ import annotations

import logging
import mmap
import struct
import sys
import threading
from pathlib import Path

from soundmill.storage.queue import PATIENT, make_app
from soundmill.worker.pool import Intake, pool_with

ACKNOWLEDGED, PLAIN = "acknowledged", "plain"
TASK = "soundmill.raw"
COUNTER = struct.Struct("=q")


def main() -> None:
    """Consume until terminated."""
    url, path, threads, queue = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    app = make_app(url, PATIENT, [queue])
    app.conf.broker_transport_options["ack_emulation"] = queue == ACKNOWLEDGED
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), COUNTER.size)
    lock = threading.Lock()

    @app.task(name=TASK, acks_late=True, ignore_result=True)
    def raw(job_id: str) -> None:  # noqa: ARG001 - what our own tasks are given, too
        with lock:
            COUNTER.pack_into(shared, 0, COUNTER.unpack_from(shared, 0)[0] + 1)

    intake = Intake({queue: threads})
    worker = app.Worker(
        hostname=f"{queue}@localhost", queues=[queue], pool=pool_with(intake, lambda job: None), concurrency=threads,
        loglevel=logging.WARNING, quiet=True, redirect_stdouts=False, without_mingle=True, without_gossip=True,
    )  # fmt: skip
    sys.setswitchinterval(0.0005)  # as in our own worker
    worker.start()


if __name__ == "__main__":
    main()
