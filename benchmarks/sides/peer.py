"""Another queue at the same work: `peer.py dramatiq|rq work|send REDIS_URL COUNTER_FILE THREADS`.

Runs in an environment of its own, without soundmill. As a worker it counts up in the file; as a sender
it sends as many messages as each line of its standard input says.
"""

from __future__ import annotations

import mmap
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

QUEUE = "peer"
COUNTER = struct.Struct("=q")

_lock = threading.Lock()
_shared: mmap.mmap | None = None


def open_counter(path: str) -> None:
    """Count in this file from now on."""
    global _shared  # noqa: PLW0603 - the workers of both know a task only as a function of a module
    with Path(path).open("r+b") as file:
        _shared = mmap.mmap(file.fileno(), COUNTER.size)


def count(number: int) -> None:  # noqa: ARG001 - an argument, as every task has some
    """The work: nothing."""
    assert _shared is not None
    with _lock:
        COUNTER.pack_into(_shared, 0, COUNTER.unpack_from(_shared, 0)[0] + 1)


def dramatiq_peer(url: str, threads: int) -> tuple[Callable[[], None], Callable[[int], None]]:
    """Dramatiq with its own default middleware."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=url)
    dramatiq.set_broker(broker)
    actor = dramatiq.actor(count, broker=broker, queue_name=QUEUE)

    def work() -> None:
        dramatiq.Worker(broker, queues={QUEUE}, worker_threads=threads).start()
        threading.Event().wait()

    def send(jobs: int) -> None:
        for number in range(jobs):
            actor.send(number)

    return work, send


def rq_peer(url: str, threads: int) -> tuple[Callable[[], None], Callable[[int], None]]:  # noqa: ARG001
    """RQ's worker that does not fork: one job at a time; RQ has no threads."""
    import peer  # the worker looks the function up by this name
    from redis import Redis
    from rq import Queue, SimpleWorker

    connection = Redis.from_url(url)
    queue = Queue(QUEUE, connection=connection)

    def work() -> None:
        peer.open_counter(sys.argv[4])
        # Its time to live is also how long it waits for a job before it notices that it shall stop.
        worker = SimpleWorker([queue], connection=connection, log_job_description=False, worker_ttl=20)
        worker.work(logging_level="WARNING")

    def send(jobs: int) -> None:
        for start in range(0, jobs, 1000):
            some = range(start, min(start + 1000, jobs))
            queue.enqueue_many([Queue.prepare_data(peer.count, (number,), result_ttl=0) for number in some])

    return work, send


def main() -> None:
    """Work or send until terminated."""
    name, part, url, path, threads = sys.argv[1:6]
    open_counter(path)
    work, send = {"dramatiq": dramatiq_peer, "rq": rq_peer}[name](url, int(threads))
    if part == "work":
        work()
    for line in sys.stdin:
        send(int(line))


if __name__ == "__main__":
    main()
