"""What 1,000 coroutines that wait for a job each cost: questions, threads, and how late they wake.

    python benchmarks/waiting.py                     # SQLite and PostgreSQL, about two minutes
    python benchmarks/waiting.py --databases sqlite --jobs 200

One process waits with `await producer.aio.wait(job)`, another completes the jobs one by one over
`--seconds`. Latency is from the time that the settling transaction wrote to the coroutine's next step.
Before that nothing happens for as long, and all wait.

PostgreSQL is a private server with fsync on, started by the tests' own fixture module.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, where `queue.py` would pass for the standard library's `queue`

import argparse
import asyncio
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIDES = HERE / "sides"
sys.path[:0] = [str(SIDES), str(HERE.parent)]

from figures import keep, machine, percentiles, show, spread
from servers import database_of
from sqlalchemy import event

from soundmill.producer import Producer, Request
from soundmill.storage.settings import Settings


@dataclass
class Seen:
    """What was seen while all waited."""

    questions: int = 0
    threads: int = 0
    late_ms: list[float] = field(default_factory=list)


def main() -> int:
    """Run what the options ask for, print a table, keep the figures."""
    options = _options()
    figures: dict[str, Any] = {"machine": machine(), "jobs": options.jobs, "seconds": options.seconds}
    for kind in options.databases.split(","):
        with ExitStack() as context:
            folder = Path(context.enter_context(tempfile.TemporaryDirectory(prefix="soundmill-bench-")))
            url = context.enter_context(database_of(kind, folder))
            producer = context.enter_context(Producer(Settings(state_dir=folder, database_url=url)))
            figures[kind] = _measure(producer, url, options)
        show(kind, figures[kind])
    if options.output:
        keep(options.output, figures)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", default="sqlite,postgres")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1000, help="coroutines that wait, for a job each")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    return parser.parse_args()


def _measure(producer: Producer, url: str, options: argparse.Namespace) -> dict[str, Any]:
    rounds = [_round(producer, url, options) for _ in range(options.rounds)]
    return {
        "questions_per_s_while_settling": spread([settling for settling, _, _ in rounds]),
        "questions_per_s_while_idle": spread([idle for _, idle, _ in rounds]),
        "threads": spread([seen.threads for _, _, seen in rounds]),
        "settle_to_wake": percentiles([late for _, _, seen in rounds for late in seen.late_ms]),
    }


def _round(producer: Producer, url: str, options: argparse.Namespace) -> tuple[float, float, Seen]:
    requests = [Request(model="espeak-ng", args={"text": "a"}) for _ in range(options.jobs)]
    ids = [answer.job.id for answer in producer.submit_many(requests) if answer.job is not None]
    seen = Seen()
    event.listen(producer.database.engine, "before_cursor_execute", _counter_of(seen))
    return asyncio.run(_wait_for_all(producer, url, ids, seen, options.seconds))


async def _wait_for_all(
    producer: Producer, url: str, ids: list[str], seen: Seen, seconds: float
) -> tuple[float, float, Seen]:
    tasks = [asyncio.create_task(_wait_for(producer, id_, seen)) for id_ in ids]
    await asyncio.sleep(2)  # until the interval has grown to its longest
    idle = await _questions_in(seen, seconds)
    settler = await asyncio.create_subprocess_exec(
        sys.executable, SIDES / "settler.py", url, str(seconds), stdin=asyncio.subprocess.PIPE
    )
    assert settler.stdin is not None
    settler.stdin.write("\n".join(ids).encode())
    settler.stdin.close()
    _, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    begun, asked = time.monotonic(), seen.questions
    while left:
        seen.threads = max(seen.threads, threading.active_count() - 1)  # but for the one of the coroutines
        _, left = await asyncio.wait(left, timeout=0.05)
    settling = (seen.questions - asked) / (time.monotonic() - begun)
    await asyncio.gather(*tasks)
    if await settler.wait() != 0:
        raise SystemExit("the settler failed")
    return settling, idle, seen


async def _wait_for(producer: Producer, id_: str, seen: Seen) -> None:
    job = await producer.aio.wait(id_, timeout_s=300)
    seen.late_ms.append((time.time() - (job.finished_at or 0.0)) * 1000)


async def _questions_in(seen: Seen, seconds: float) -> float:
    begun, asked = time.monotonic(), seen.questions
    await asyncio.sleep(seconds)
    return (seen.questions - asked) / (time.monotonic() - begun)


def _counter_of(seen: Seen) -> Any:
    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.questions += statement.startswith("SELECT")

    return count


if __name__ == "__main__":
    sys.exit(main())
