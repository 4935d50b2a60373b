"""Wake-ups straight from the submitter, with a real broker; and none when others wait before."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from soundmill.producer import Producer, Request
from soundmill.storage.broker import Broker
from soundmill.storage.database import Database
from soundmill.storage.queue import redis_key
from soundmill.storage.settings import Settings

from .playing import rows_of, take


def speech(**more: object) -> Request:
    return Request(model="espeak-ng", args={"text": "Good morning."}, **more)  # type: ignore[arg-type]


def waiting(broker: Broker, step: int = 6) -> int:
    with redis.Redis.from_url(broker.redis_url) as client:
        return int(client.llen(redis_key("espeak-ng", step)))


def published(database: Database) -> list[bool]:
    return [row.published_at is not None for row in rows_of(database)]


@contextmanager
def frozen(broker: Broker) -> Iterator[None]:
    with redis.Redis.from_url(broker.redis_url) as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_job_is_published_at_once_and_marked(broker: Broker, small_producer: Producer) -> None:
    small_producer.submit(speech())
    small_producer.submit(speech(priority=9))

    assert (waiting(broker), waiting(broker, step=0)) == (1, 1)
    assert published(small_producer.database) == [True, True]


def test_jobs_that_wait_for_something_are_not_published(broker: Broker, small_producer: Producer) -> None:
    small_producer.submit(speech(delay_s=60))
    small_producer.pause("espeak-ng")
    small_producer.submit(speech())

    assert waiting(broker) == 0
    assert published(small_producer.database) == [False, False]


def test_nobody_overtakes_a_backlog(small_settings: Settings, small_producer: Producer) -> None:
    small_producer.submit(speech())  # no broker runs yet: it stays unpublished
    from soundmill.storage.broker import resolve_broker

    with resolve_broker(small_settings) as broker, Producer(small_settings) as producer:
        producer.submit(speech())
        assert waiting(broker) == 0
        producer.submit(speech(priority=9))
        assert waiting(broker, step=0) == 1

    assert published(small_producer.database) == [False, False, True]


def test_only_as_many_are_published_as_the_window_has_room_for(
    broker: Broker, small_producer: Producer
) -> None:
    room = small_producer.settings.window_min
    jobs = list(small_producer.submit_many([speech()] * (room + 9)))

    assert len(jobs) == room + 9
    assert waiting(broker) == room
    assert sum(published(small_producer.database)) == room
    assert published(small_producer.database)[:room] == [True] * room


def test_an_older_job_that_answers_for_a_key_is_not_published_again(
    broker: Broker, small_producer: Producer
) -> None:
    for _ in range(3):
        small_producer.submit(speech(idempotency_key="k"))

    assert waiting(broker) == 1


def test_a_retried_job_is_published_at_once(broker: Broker, small_producer: Producer) -> None:
    job = small_producer.submit(speech())
    job.cancel()
    job.retry()

    assert waiting(broker) == 2  # the first message is still there, and harmless
    assert published(small_producer.database) == [True]


def test_a_frozen_broker_does_not_hold_up_a_submit(broker: Broker, small_producer: Producer) -> None:
    small_producer.submit(speech())
    took = []
    with frozen(broker):
        for _ in range(3):
            began = time.monotonic()
            small_producer.submit(speech())
            took.append(time.monotonic() - began)

    # The first meets the frozen server, and the next ones leave it alone.
    assert took[0] < 0.5
    assert min(took[1:]) < 0.15  # the quicker one: on a busy machine either may wait for the processor
    assert published(small_producer.database) == [True, False, False, False]


def test_a_frozen_broker_that_was_never_met_does_not_hold_up_a_submit_after_its_commit(
    broker: Broker, small_settings: Settings
) -> None:
    with frozen(broker), Producer(small_settings) as producer:
        assert rows_of(producer.database) == []
        began = time.monotonic()
        job = producer.submit(speech())
        assert time.time() - job.get().submitted_at < 0.3
        assert time.monotonic() - began < 2.0  # half a second of it goes to look for the broker, before


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis://192.0.2.1:6379/0", "nonsense://x"])
def test_a_broker_that_is_not_there_does_not_hold_up_a_submit(tmp_path: Path, url: str) -> None:
    with Producer(Settings(state_dir=tmp_path, broker_url=url)) as producer:
        assert rows_of(producer.database) == []
        began = time.monotonic()
        job = producer.submit(speech())
        assert time.monotonic() - began < 2.0  # a connection that is waited for takes longer
        assert job.fresh


def test_workers_are_told_of_a_cancel(broker: Broker, small_producer: Producer) -> None:
    job = small_producer.submit(speech())
    take(small_producer.database, [job.id])
    with redis.Redis.from_url(broker.redis_url) as client, client.pubsub() as channel:
        channel.psubscribe("*")
        job.cancel()
        until = time.monotonic() + 5
        heard = b""
        while job.id.encode() not in heard and time.monotonic() < until:
            message = channel.get_message(timeout=0.1)
            heard += bytes(str(message), "utf-8") if message else b""
            if message and isinstance(message["data"], bytes):
                import base64
                import json

                body = json.loads(message["data"]).get("body", "")
                heard += base64.b64decode(body)
    assert job.id.encode() in heard
    assert job.get().cancel_requested_at is not None
