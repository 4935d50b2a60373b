"""The faults of what workers and producers stand on: Redis, the job table, the disk."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time

from blow import Blow
from process_faults import kill_worker
from redis.exceptions import RedisError
from stage import Stage

# -- Redis -------------------------------------------------------------------------------------------


def kill_redis(stage: Stage, rng: random.Random) -> Blow:
    stage.redis.kill()
    time.sleep(rng.uniform(0.5, 3.0))
    stage.redis.start()
    return Blow()


def restart_redis(stage: Stage, rng: random.Random) -> Blow:
    stage.redis.shut_down()
    time.sleep(rng.uniform(0.5, 3.0))
    stage.redis.start()
    return Blow()


def flush_redis(stage: Stage, rng: random.Random) -> Blow:
    with stage.redis.client() as client:
        for _ in range(rng.randint(1, 2)):
            client.flushall()
            time.sleep(rng.uniform(0.0, 0.2))
    return Blow()


def freeze_redis(stage: Stage, rng: random.Random) -> Blow:
    stage.redis.freeze(True)
    time.sleep(rng.choice((2.0, 5.0, 12.0)))
    stage.redis.freeze(False)
    return Blow()


def fill_redis(stage: Stage, rng: random.Random) -> Blow:
    """It is at its limit of memory and takes nothing, not even acknowledgements."""
    with stage.redis.client() as client:
        client.config_set("maxmemory", "1")
        time.sleep(rng.uniform(3.0, 8.0))
        client.config_set("maxmemory", "256mb")
    return Blow()


def stall_redis(stage: Stage, rng: random.Random) -> Blow:
    stage.redis_proxy.stall()
    time.sleep(rng.uniform(1.0, 8.0))
    stage.redis_proxy.flow()
    return Blow()


def drop_redis(stage: Stage, rng: random.Random) -> Blow:
    """Connections are cut, again and again for a moment."""
    for _ in range(rng.randint(1, 5)):
        stage.redis_proxy.drop()
        time.sleep(rng.uniform(0.1, 0.5))
    return Blow()


def kill_redis_and_worker(stage: Stage, rng: random.Random) -> Blow:
    """Two at once."""
    stage.redis.kill()
    blow = kill_worker(stage, rng)
    struck = time.time()
    time.sleep(rng.uniform(0.5, 2.0))
    with contextlib.suppress(RedisError):
        stage.redis.start()
    blow.clock = struck
    return blow


# -- the database and the disk -----------------------------------------------------------------------


def crash_database(stage: Stage, rng: random.Random) -> Blow:
    """PostgreSQL ends without a checkpoint and recovers from its log."""
    held = stage.executing()
    stage.postgres.stop("immediate")
    time.sleep(rng.uniform(0.3, 3.0))
    stage.postgres.start()
    return Blow(in_flight=held)


def stall_database(stage: Stage, rng: random.Random) -> Blow:
    """Nothing gets through, for a moment or for longer than a lease."""
    assert stage.database_proxy is not None
    stage.database_proxy.stall()
    time.sleep(rng.choice((1.0, 3.0, stage.settings.lease_s + 3.0)))
    held = stage.executing()
    stage.database_proxy.flow()
    return Blow(in_flight=held)


def drop_database(stage: Stage, rng: random.Random) -> Blow:
    """Every connection is cut, some in the middle of a commit, and new ones are refused for a moment."""
    assert stage.database_proxy is not None
    held = stage.executing()
    stage.database_proxy.refuse(True)
    for _ in range(rng.randint(1, 4)):
        stage.database_proxy.drop()
        time.sleep(rng.uniform(0.1, 0.5))
    stage.database_proxy.refuse(False)
    return Blow(in_flight=held)


def lock_database(stage: Stage, rng: random.Random) -> Blow:
    """Somebody else holds SQLite's lock, for a moment or for longer than a lease."""
    connection = sqlite3.connect(str(stage.database.url.database), timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    time.sleep(rng.choice((1.0, 4.0, stage.settings.lease_s + 2.0)))
    held = stage.executing()
    connection.rollback()
    connection.close()
    return Blow(in_flight=held)


def fill_disk(stage: Stage, rng: random.Random) -> Blow:
    """No artifact can be written."""
    stage.disk.fill()
    held = stage.executing()
    time.sleep(rng.uniform(2.0, 5.0))
    stage.disk.free()
    return Blow(in_flight=held, facts={"file system": stage.disk.mounted})
