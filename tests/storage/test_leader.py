"""Leadership: one holder at a time, handed over when its lease runs out or it resigns."""

from __future__ import annotations

from functools import partial

from sqlalchemy import update

from soundmill.storage.database import Database
from soundmill.storage.leader import lead, resign
from soundmill.storage.rows import Leader

from .jobs import Background


def leads(database: Database, holder: str, lease_s: float = 10) -> bool:
    with database.write() as connection:
        return lead(connection, database, holder=holder, lease_s=lease_s)


def test_the_first_who_asks_leads_and_stays_while_it_renews(database: Database) -> None:
    assert leads(database, "one")
    assert not leads(database, "two")
    assert leads(database, "one")
    assert not leads(database, "two")


def test_the_leadership_passes_when_the_lease_runs_out(database: Database) -> None:
    leads(database, "one")
    with database.write() as connection:
        connection.execute(update(Leader).values(lease_until=1.0))

    assert leads(database, "two")
    assert not leads(database, "one")


def test_a_leader_that_resigns_hands_over_at_once(database: Database) -> None:
    leads(database, "one")
    with database.write() as connection:
        resign(connection, holder="two")
    assert not leads(database, "two")

    with database.write() as connection:
        resign(connection, holder="one")
    assert leads(database, "two")


def test_of_many_who_ask_at_once_one_leads(database: Database) -> None:
    threads = [Background(partial(leads, database, f"h{n}")) for n in range(6)]

    assert sum(thread.result() for thread in threads) == 1
