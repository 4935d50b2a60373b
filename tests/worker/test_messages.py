"""What is no wake-up: refused, counted and told, while the jobs go on."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.storage.lifecycle import State
from soundmill.storage.queue import RESPONSIVE, make_app
from soundmill.worker.messages import LARGEST_CONTROL, LARGEST_WAKE_UP, Refusals, problem_of

from .running import Stack, until

TASK, JOB = "soundmill.drill", "01JAAAAAAAAAAAAAAAAAAAAAAA"
PIDBOX = "cpu-0@here.celery.pidbox"


def packed(body: Any) -> str:
    """A body as kombu puts it on a queue."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return base64.b64encode(raw).decode()


def wake_up(**changes: Any) -> dict[str, Any]:
    """A message of ours as it lies in Redis, parts of it changed."""
    made = make_app(None, RESPONSIVE).amqp.as_task_v2(JOB, TASK, args=(JOB,), ignore_result=True)
    message = {
        "body": packed(list(made.body)), "content-type": "application/json", "content-encoding": "utf-8",
        "headers": made.headers,
        "properties": made.properties | {
            "body_encoding": "base64", "delivery_tag": "tag", "priority": 6, "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "drill"},
        },
    }  # fmt: skip
    headers = changes.pop("headers", {})
    return message | changes | ({"headers": message["headers"] | headers} if headers is not None else {})


class Touch:
    """What a pickle can do: anything. This one makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.path),))


def with_calls(**calls: Any) -> str:
    return packed([[JOB], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None} | calls])


BOMB = base64.b64encode(zlib.compress(bytes(50_000_000), 9)).decode()

BAD: dict[str, tuple[Any, str]] = {
    "a YAML body": (wake_up(**{"content-type": "application/x-yaml", "body": packed(b"!!python/name:os.system")}), "not_json"),
    "a msgpack body": (wake_up(**{"content-type": "application/x-msgpack", "body": packed(b"\x93\x90\x80\x80")}), "not_json"),
    "a pickle that says it is JSON": (wake_up(body=packed(pickle.dumps(Touch("x")))), "not_a_wake_up"),
    "another encoding": (wake_up(**{"content-encoding": "binary"}), "not_json"),
    "a bomb": (wake_up(body=BOMB, headers={"compression": "application/x-gzip"}), "compressed"),
    "a compressed wake-up": (
        wake_up(body=packed(gzip.compress(b"[]")), headers={"compression": "zlib"}), "compressed",
    ),
    "a giant body": (wake_up(body="A" * 900_000), "too_large"),
    "a giant header": (wake_up(headers={"origin": "A" * LARGEST_WAKE_UP}), "too_large"),
    "no headers": (wake_up(headers=None) | {"headers": None}, "malformed"),
    "protocol 1": (
        wake_up(body=packed({"task": TASK, "id": JOB, "args": [JOB], "kwargs": {}})) | {"headers": {}}, "unknown_task",
    ),
    "another task": (wake_up(headers={"task": "celery.backend_cleanup"}), "unknown_task"),
    "a task that is none": (wake_up(headers={"task": ["x"]}), "unknown_task"),
    "other arguments": (wake_up(body=packed([[JOB, "text"], {}, {}])), "not_a_wake_up"),
    "arguments by name": (wake_up(body=packed([[JOB], {"text": "x"}, {}])), "not_a_wake_up"),
    "an id that is none": (wake_up(body=packed([["../\n\x1b[2J"], {}, {}])), "not_a_wake_up"),
    "a callback": (wake_up(body=with_calls(callbacks=[{"task": TASK, "args": []}])), "not_a_wake_up"),
    "a time to come": (wake_up(headers={"eta": "2099-01-01T00:00:00"}), "not_a_wake_up"),
    "a limit": (wake_up(headers={"timelimit": [1, 1]}), "not_a_wake_up"),
    "a text to be shown": (wake_up(headers={"argsrepr": "\x1b]0;owned\x07"}), "not_a_wake_up"),
    "another name to be shown": (wake_up(headers={"shadow": "forged\nline"}), "not_a_wake_up"),
    "no base64": (wake_up(body="***"), "not_a_wake_up"),
    "no body": (wake_up(body=None), "malformed"),
    "a list": ([], "malformed"),
    "a number": (7, "malformed"),
    "nothing in it": ({}, "malformed"),
}  # fmt: skip

NOT_JSON = [b"", b"\xff\xfe\x00", b"cos\nsystem\n(S'true'\ntR.", b"{", b"[" * 200_000]


def test_a_wake_up_of_ours_is_taken() -> None:
    assert problem_of(wake_up(), "drill", {TASK}) is None


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_wake_up_is_refused(what: str) -> None:
    message, problem = BAD[what]
    assert problem_of(message, "drill", {TASK}) == problem


@pytest.mark.parametrize(
    ("body", "headers", "problem"),
    [
        ({"method": "revoke", "arguments": {"task_id": [JOB]}}, {"clock": 5}, None),
        ({"method": "ping", "arguments": None, "destination": ["x"], "ticket": "t"}, {}, None),
        ({"method": "ping", "pattern": "(a+)+$", "matcher": "pcre"}, {}, "not_a_control"),
        ({"method": "ping"}, {"clock": "9"}, "malformed"),
        ({"method": "ping", "arguments": ["x"]}, {}, "malformed"),
        ({"method": ["ping"]}, {}, "malformed"),
        (["ping"], {}, "malformed"),
        (b"\x80\x04K\x01.", {}, "malformed"),
    ],
)
def test_remote_control_takes_commands_only(body: Any, headers: dict[str, Any], problem: str | None) -> None:
    assert problem_of(wake_up(body=packed(body)) | {"headers": headers}, PIDBOX, {TASK}) == problem


def test_remote_control_takes_no_giant_and_no_pickle() -> None:
    assert problem_of(wake_up(body="A" * (LARGEST_CONTROL + 1)), PIDBOX, {TASK}) == "too_large"
    pickled = wake_up(body=packed(pickle.dumps({})), **{"content-type": "application/x-python-serialize"})
    assert problem_of(pickled, PIDBOX, {TASK}) == "not_json"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_PARTS = st.sampled_from(["body", "content-type", "content-encoding", "headers", "properties"])


@given(part=_PARTS, value=_JSON, queue=st.sampled_from(["drill", PIDBOX]))
def test_whatever_stands_in_a_message_the_answer_is_a_word(part: str, value: Any, queue: str) -> None:
    assert problem_of(wake_up() | {part: value}, queue, {TASK}) in {
        None, "malformed", "not_json", "compressed", "too_large", "unknown_task", "not_a_wake_up", "not_a_control",
    }  # fmt: skip


@given(body=_JSON)
def test_no_body_but_that_of_a_job_is_taken(body: Any) -> None:
    fits = isinstance(body, list) and len(body) == 3 and isinstance(body[0], list) and len(body[0]) == 1
    if problem_of(wake_up(body=packed(body)), "drill", {TASK}) is None:
        assert fits


def test_a_flood_is_counted_whole_and_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            refusals.add("malformed", "drill")
        refusals.add("too_large", "drill")
    assert refusals.counts == {"malformed": 1000, "too_large": 1}
    assert 1 <= len(caplog.records) < 100


@pytest.mark.slow
def test_a_real_worker_outlives_them_all_and_runs_none(stack: Stack, tmp_path: Path) -> None:
    stack.start("cpu:0")
    process = stack.cards()["cpu:0"].pid
    touched = tmp_path / "touched"
    pickled = wake_up(body=packed(pickle.dumps(Touch(str(touched)))))
    said = {"content-type": "application/x-python-serialize", "content-encoding": "binary"}
    with stack.redis() as redis:
        bad = [json.dumps(message).encode() for message in (pickled, pickled | said)]
        bad += [json.dumps(message).encode() for message, _ in BAD.values()]
        for raw in (*bad, *NOT_JSON):
            redis.lpush("drill", raw)
        for raw in (*bad[:6], *NOT_JSON[1:]):
            assert redis.publish("/0.celery.pidbox", raw) == 1, "the worker listens there"
        until(lambda: redis.llen("drill") == 0, 60, stack.words)
    job = stack.await_state(stack.submit()[0], State.COMPLETED)
    assert stack.cards()["cpu:0"].pid == process, "the process was not started again"
    assert not touched.exists()
    assert "a message was refused" in stack.words()
    assert job.attempt == 1
