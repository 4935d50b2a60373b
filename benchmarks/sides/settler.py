"""Plays the worker for `waiting.py`: `settler.py DATABASE_URL SECONDS` completes the jobs on its standard input.

It reads one id from each line until the end and completes them one by one, spread over the seconds.
"""

from __future__ import annotations

import sys
import time

from soundmill.storage.attempts import Settlement, claim, settle
from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State


def main() -> None:
    """Claim all, then settle one after the other."""
    database, span_s = Database(sys.argv[1]), float(sys.argv[2])
    ids = sys.stdin.read().split()
    attempts: dict[str, int] = {}
    for start in range(0, len(ids), 100):
        with database.write() as connection:
            some = claim(
                connection, database, ids[start : start + 100], worker="bench", card="cpu:0", lease_s=300
            )
        attempts |= {id_: job.attempt for id_, job in some.items()}
    begun = time.monotonic()
    for place, id_ in enumerate(ids):
        time.sleep(max(0.0, begun + span_s * place / len(ids) - time.monotonic()))
        done = Settlement(id=id_, attempt=attempts[id_], state=State.COMPLETED, outcome="completed")
        with database.write() as connection:
            settle(connection, database, [done])


if __name__ == "__main__":
    main()
