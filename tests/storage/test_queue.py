"""Messages out: what they hold, where they land, and what happens when Redis does not answer."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from soundmill.storage.broker import redis_url
from soundmill.storage.broker_server import find_server
from soundmill.storage.errors import StorageUnavailable
from soundmill.storage.priorities import STEPS, step_of
from soundmill.storage.queue import RESPONSIVE, Publisher, make_app, redis_key, task_name
from soundmill.storage.window import Wake

from .jobs import Background

MODEL = "espeak-ng"


@pytest.fixture(scope="module")
def broker_url() -> Iterator[str]:
    """A server of this module's own, that tests may stop and flush."""
    # pytest's own folder may be too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="sm"))
    options = ("--port", "0", "--unixsocket", "s", "--save", "", "--appendonly", "no")
    server = subprocess.Popen([find_server(), *options], cwd=folder, stdout=subprocess.DEVNULL)
    while not (folder / "s").exists():
        assert server.poll() is None
        time.sleep(0.01)
    yield f"redis+socket://{folder / 's'}"
    server.kill()
    server.wait()
    shutil.rmtree(folder)


@pytest.fixture
def server(broker_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url(broker_url)) as client:
        client.flushall()
        yield client


@pytest.fixture
def publisher(broker_url: str, server: redis.Redis) -> Iterator[Publisher]:
    publisher = Publisher(make_app(broker_url, RESPONSIVE), breaker_s=1.0)
    yield publisher
    publisher.close()


def wake(number: int = 0, **changes: Any) -> Wake:
    values: dict[str, Any] = {"kind": "tts", "model": MODEL, "priority": 4, "attempt": 0}
    return Wake(id=f"JOB{number:023}", **values | changes)


def messages(server: redis.Redis, key: str) -> list[dict[str, Any]]:
    """What lies in a list, the next one first."""
    return [json.loads(raw) for raw in reversed(server.lrange(key, 0, -1))]


def body(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))


def test_a_message_is_json_and_carries_only_the_id(publisher: Publisher, server: redis.Redis) -> None:
    publisher.publish([wake(7)])

    [message] = messages(server, redis_key(MODEL, 6))
    args, kwargs, embedded = body(message)
    assert (args, kwargs) == ([wake(7).id], {})
    assert all(value is None for value in embedded.values())
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == task_name("tts") == "soundmill.tts"
    assert message["headers"]["id"] == wake(7).id


@pytest.mark.parametrize("priority", range(10))
def test_every_priority_has_its_list(publisher: Publisher, server: redis.Redis, priority: int) -> None:
    publisher.publish([wake(priority=priority)])

    assert server.keys("*") == [redis_key(MODEL, step_of(priority)).encode()]
    assert publisher.lengths([MODEL]) == {(MODEL, step): int(step == step_of(priority)) for step in STEPS}


def test_a_lane_keeps_the_order(publisher: Publisher, server: redis.Redis) -> None:
    publisher.publish([wake(number) for number in range(5)])

    ids = [body(message)[0][0] for message in messages(server, redis_key(MODEL, 6))]
    assert ids == [wake(number).id for number in range(5)]


def test_more_messages_than_one_batch_arrive_at_their_models(publisher: Publisher) -> None:
    wakes = [wake(number, model=("a", "b")[number % 2]) for number in range(2_500)]
    publisher.publish(wakes)

    lengths = publisher.lengths(["a", "b", "c"])
    assert (lengths["a", 6], lengths["b", 6], lengths["c", 6]) == (1_250, 1_250, 0)


def test_after_everything_was_flushed_a_publish_still_arrives(
    publisher: Publisher, server: redis.Redis
) -> None:
    publisher.publish([wake(1)])
    server.flushall()
    publisher.publish([wake(2)])

    assert publisher.lengths([MODEL])[MODEL, 6] == 1


def test_a_message_is_what_celery_expects(broker_url: str, publisher: Publisher, server: redis.Redis) -> None:
    """The hand-made message reads like one that Celery sends itself."""
    app = make_app(broker_url, RESPONSIVE)
    publisher.publish([wake(1)])
    app.send_task("soundmill.tts", args=(wake(1).id,), task_id=wake(1).id, queue=MODEL, priority=6)
    ours, celerys = messages(server, redis_key(MODEL, 6))
    app.close()

    assert body(ours) == body(celerys)
    assert ours["headers"].keys() == celerys["headers"].keys()
    assert ours["properties"].keys() == celerys["properties"].keys()
    assert ours["properties"]["delivery_info"]["routing_key"] == MODEL


def test_a_running_job_is_stopped_by_a_broadcast(publisher: Publisher, server: redis.Redis) -> None:
    publisher.stop_running(["one", "two"])  # nobody listens: it must not fail

    assert publisher.lengths([MODEL])[MODEL, 6] == 0


# --- a Redis that does not answer


@pytest.fixture
def frozen(server: redis.Redis) -> Iterator[int]:
    """A server that takes connections and never answers."""
    pid = int(server.info("server")["process_id"])
    yield pid
    os.kill(pid, signal.SIGCONT)


def took_s(publisher: Publisher) -> float:
    begin = time.monotonic()
    with pytest.raises(StorageUnavailable):
        publisher.publish([wake()])
    return time.monotonic() - begin


@pytest.mark.parametrize("connected", [True, False])
def test_a_frozen_redis_holds_up_a_publish_for_a_moment_only(
    publisher: Publisher, frozen: int, connected: bool
) -> None:
    if connected:
        publisher.publish([wake()])
    os.kill(frozen, signal.SIGSTOP)

    assert took_s(publisher) <= 0.3
    assert took_s(publisher) <= 0.05  # the circuit breaker does not even try
    with pytest.raises(StorageUnavailable, match="did not answer a moment ago"):
        publisher.lengths([MODEL])


def test_many_threads_before_a_frozen_redis_wait_for_one_try(publisher: Publisher, frozen: int) -> None:
    publisher.publish([wake()])
    os.kill(frozen, signal.SIGSTOP)
    threads = [Background(lambda: took_s(publisher)) for _ in range(8)]

    assert max(thread.result() for thread in threads) <= 0.4


def test_a_redis_that_thaws_is_used_again(publisher: Publisher, server: redis.Redis, frozen: int) -> None:
    publisher.publish([wake(1)])
    os.kill(frozen, signal.SIGSTOP)
    took_s(publisher)
    os.kill(frozen, signal.SIGCONT)
    time.sleep(1.1)
    server.flushall()

    publisher.publish([wake(2)])
    assert publisher.lengths([MODEL])[MODEL, 6] == 1


def test_a_redis_that_is_not_there_is_unavailable_at_once() -> None:
    publisher = Publisher(make_app("redis+socket:///nowhere/s", RESPONSIVE))

    assert took_s(publisher) <= 0.3
    publisher.close()


def test_a_connection_that_was_cut_is_replaced_after_the_breaker(
    publisher: Publisher, server: redis.Redis
) -> None:
    publisher.publish([wake(1)])
    server.client_kill_filter(_type="normal", skipme=True)
    try:
        publisher.publish([wake(2)])
    except StorageUnavailable:
        time.sleep(1.1)
        publisher.publish([wake(2)])

    ids = {body(message)[0][0] for message in messages(server, redis_key(MODEL, 6))}
    assert wake(2).id in ids
