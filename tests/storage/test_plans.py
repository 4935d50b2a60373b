"""No periodic question reads the whole table: each goes along an index made for it.

The statements are caught as they go to the database, and the planner is asked about those.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text

from soundmill.storage import backlog, rescue, retention, window
from soundmill.storage.attempts import Settlement, claim, settle
from soundmill.storage.database import Database
from soundmill.storage.leases import Progress, keep
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import page_of_jobs
from soundmill.storage.rows import Batch, Job
from soundmill.storage.window import Wake

from .jobs import CARD, WORKER

ROWS = 20_000
FUTURE = 4e9
MODELS = ("acoustic", "espeak-ng")


def rows() -> Iterator[dict[str, Any]]:
    """Mostly finished, half of the rest waits for its turn, and a few of everything else."""
    shares = {
        "completed": 9_400, "unpublished": 7_000, "published": 200, "executing": 100, "scheduled": 1_500,
        "waiting": 1_000, "retryable": 300, "discarded": 500,
    }  # fmt: skip
    kinds = itertools.chain.from_iterable(itertools.repeat(kind, count) for kind, count in shares.items())
    for number, kind in enumerate(kinds):
        yield {
            "id": f"{number * 7919 % ROWS:026}",
            "tenant": "default",
            "batch_id": f"default/b{number % 20}",
            "kind": "tts",
            "model": MODELS[number % 2],
            "args": {},
            "args_digest": "",
            "state": {"unpublished": "available", "published": "available", "waiting": "scheduled"}.get(
                kind, kind
            ),
            "priority": number % 3 * 4,
            "pending_parents": int(kind == "waiting"),
            "submitted_at": 1.0,
            "available_at": FUTURE if kind in ("scheduled", "retryable") else 1.0,
            "published_at": 5.0 if kind == "published" else None,
            "lease_until": FUTURE if kind == "executing" else None,
            "worker": WORKER if kind == "executing" else None,
            "deadline_at": FUTURE if number % 4 == 0 else None,
            "finished_at": 9.0 if kind in ("completed", "discarded") else None,
        }


def fill(database: Database) -> None:
    with database.write() as connection:
        batches = [
            {"id": f"default/b{n}", "tenant": "default", "name": f"b{n}", "created_at": 1.0, "turn": n}
            for n in range(2_000)
        ]
        connection.execute(insert(Batch), batches)
        connection.execute(insert(Job), list(rows()))
    if database.dialect == "postgresql":
        with database.write() as connection:
            connection.execute(text("ANALYZE"))


class Undo(Exception):
    """Every question starts from the same table."""


class Planner:
    """Catches what goes over a connection, and explains it."""

    def __init__(self, connection: Connection, dialect: str) -> None:
        self._connection = connection
        self._explain = self._on_sqlite if dialect == "sqlite" else self._on_postgresql
        self._caught: dict[str, Any] = {}
        event.listen(connection, "before_cursor_execute", self._catch)

    def plans(self) -> list[str]:
        """One for each statement so far."""
        event.remove(self._connection, "before_cursor_execute", self._catch)
        return [
            f"{statement}\n\n{self._explain(statement, values)}" for statement, values in self._caught.items()
        ]

    def _catch(self, _c: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE")) and re.search(r"\b(jobs|batches)\b", statement):
            self._caught[statement] = values[0] if many else values

    def _on_sqlite(self, statement: str, values: Any) -> str:
        plan = self._connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        return "\n".join(row.detail for row in plan)

    def _on_postgresql(self, statement: str, values: Any) -> str:
        # As it is planned once psycopg has prepared the statement: without a look at the values.
        from psycopg.sql import Literal

        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
        numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement)
        given = ", ".join(Literal(values[name]).as_string() for name in names)
        driver: Any = self._connection.connection.driver_connection
        with driver.cursor() as cursor:
            cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            cursor.execute(f"PREPARE question AS {numbered}")
            plan = cursor.execute(f"EXPLAIN EXECUTE question{f'({given})' if given else ''}").fetchall()
            cursor.execute("DEALLOCATE question")
        return "\n".join(line for (line,) in plan)


IDS = [f"{number:026}" for number in range(40)]
WAKES = [Wake(id=id_, kind="tts", model=MODELS[0], priority=4, attempt=0) for id_ in IDS]
HELD = Settlement(id=f"{17_650 * 7919 % ROWS:026}", attempt=0, state=State.DISCARDED, outcome="discarded")

# What each question may read jobs and batches by. On SQLite the index of a unique column has no name.
BY_ID = ("uq_jobs_id", "sqlite_autoindex_jobs_1", "pk_batches", "sqlite_autoindex_batches_1")
QUESTIONS: dict[str, tuple[Callable[[Connection, Database], Any], tuple[str, ...]]] = {
    "pick": (lambda c, d: window.pick(c, {(MODELS[0], 6): 100}), ("ix_jobs_unpublished", *BY_ID)),
    "wakes_of": (lambda c, d: window.wakes_of(c, IDS), BY_ID),
    "backlog_before": (lambda c, d: window.backlog_before(c, MODELS[0], 4, 500), ("ix_jobs_unpublished",)),
    "mark_published": (lambda c, d: window.mark_published(c, d, WAKES), BY_ID),
    "take_turns": (lambda c, d: window.take_turns(c, WAKES), ("ix_batches_turn", *BY_ID)),
    "count_published": (lambda c, d: rescue.count_published(c, d, MODELS[0], 5), ("ix_jobs_published",)),
    "oldest_published": (
        lambda c, d: rescue.oldest_published(c, d, (MODELS[0], 6), older_s=5, count=9),
        ("ix_jobs_published",),
    ),
    "published_models": (lambda c, _: rescue.published_models(c), ("ix_jobs_published",)),
    "wake_due": (rescue.wake_due, ("ix_jobs_due",)),
    "discard_late": (rescue.discard_late, ("ix_jobs_deadline",)),
    "rescue_expired": (rescue.rescue_expired, ("ix_jobs_leased",)),
    "rescue_worker": (
        lambda c, d: rescue.rescue_worker(c, d, worker="nobody", crashed=True, max_crashes=2),
        ("ix_jobs_leased",),
    ),
    "release_forgotten": (
        lambda c, d: rescue.release_forgotten(c, d, 3),
        ("ix_jobs_waiting_for_parents", *BY_ID),
    ),
    "claim": (lambda c, d: claim(c, d, IDS, worker="w", card=CARD, lease_s=3), BY_ID),
    "keep": (
        lambda c, d: keep(
            c, d, {(HELD.id, 0): Progress(share=0.5, made={"frames": 1})}, worker=WORKER, lease_s=3
        ),
        BY_ID,
    ),
    "settle": (lambda c, d: settle(c, d, [HELD]), BY_ID),
    "waiting": (
        lambda c, _: backlog.waiting(c),
        ("ix_jobs_unpublished", "ix_jobs_published", *BY_ID),
    ),
    "newest_discarded": (lambda c, _: backlog.newest_discarded(c), ("ix_jobs_discarded",)),
    "leases": (backlog.leases, ("ix_jobs_leased",)),
    "over": (
        lambda c, d: retention.over(c, d, retention.Policy(kept_s={"completed": 1.0}), 0),
        ("pk_jobs", "INTEGER PRIMARY KEY"),
    ),
    "prune": (lambda c, d: retention.prune(c, d, retention.Policy(kept_s={"completed": 1.0}), IDS), BY_ID),
    "forget_empty_batches": (lambda c, _: retention.forget_empty_batches(c, ["default/b3"]), BY_ID),
    "hold_batch": (lambda c, d: retention.hold_batch(c, d, "default/b3"), BY_ID),
    # Their counters are many fewer than the jobs.
    "jobs_by_state": (lambda c, _: backlog.jobs_by_state(c), ("SCAN batches", "Seq Scan on batches")),
    "a page of the discarded": (
        lambda c, d: page_of_jobs(c, states=[State.DISCARDED]),
        ("ix_jobs_discarded",),
    ),
    "a page of a batch": (
        lambda c, d: page_of_jobs(c, tenant="default", batch="b3", after_seq=4),
        ("ix_jobs_batch",),
    ),
    "the newest of a batch": (
        lambda c, d: page_of_jobs(c, tenant="default", batch="b3", before_seq=9_000, states=list(State)[:3]),
        ("ix_jobs_batch",),
    ),
    "a page of all": (lambda c, d: page_of_jobs(c, after_seq=4), ("pk_jobs", "INTEGER PRIMARY KEY")),
}


# A bitmap's second half names no index; the first half is a line of its own. The others are small tables.
HARMLESS = ("Bitmap Heap Scan", "_job_parents", "_queues")


def scans_of(plan: str, dialect: str) -> list[str]:
    """The lines of a plan that read jobs or batches."""
    if dialect == "sqlite":
        return re.findall(r"(?:SCAN|SEARCH) (?:jobs|batches|parent)\b.*", plan)
    return re.findall(r".* Scan on (?:jobs|batches)\b.*|.*Scan .*using .*|.*Bitmap Index Scan on .*", plan)


@pytest.fixture
def filled(fresh_database: Database) -> Database:
    fill(fresh_database)
    return fresh_database


def test_every_periodic_question_goes_along_its_index(filled: Database) -> None:
    for name, (ask, indexes) in QUESTIONS.items():
        with contextlib.suppress(Undo), filled.write() as connection:
            planner = Planner(connection, filled.dialect)
            ask(connection, filled)
            plans = planner.plans()
            assert plans, f"{name} asked nothing"
            for plan in plans:
                for scan in scans_of(plan.partition("\n\n")[2], filled.dialect):
                    assert any(index in scan for index in (*indexes, *HARMLESS)), f"{name}: {scan}\n\n{plan}"
            raise Undo
