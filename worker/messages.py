"""Which messages a card's process takes: wake-ups as our own publishers write them, and nothing else.

Whoever can write to the broker can put anything on a queue. Celery refuses what is not JSON, but only after
kombu has taken the message apart: a compressed body is unpacked, whatever it grows to; what is no message at
all ends the process; and an `eta` or callbacks in a good one would be obeyed. So every message is looked at
before any of that. What is refused is dropped, counted and told; a job whose wake-up was in it gets another
one from the dispatcher.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from kombu.transport.redis import Channel, Transport

logger = logging.getLogger(__name__)

LARGEST_WAKE_UP = 4096
"""The most characters of a body, and of what stands around it; ours have 124 and about 700."""

LARGEST_CONTROL = 1024 * 1024
"""Of a remote control message, such as a cancellation of thousands of jobs."""

TOLD_EVERY_S = 1.0

_PIDBOX = ".celery.pidbox"
_JOB_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_NEVER = ("eta", "expires", "shadow", "group", "stamped_headers")
_CALLS = {"callbacks", "errbacks", "chain", "chord"}


class Refusals:
    """How many messages were refused, by reason; safe between threads."""

    def __init__(self, told: Callable[[str], None] = lambda reason: None) -> None:
        """Begin at zero.

        Args:
            told: Called with the reason of each.
        """
        self._told = told
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._told_at = float("-inf")

    @property
    def counts(self) -> Mapping[str, int]:
        """The numbers since the process began; the reasons are a fixed set of words."""
        with self._lock:
            return dict(self._counts)

    def add(self, reason: str, queue: str) -> None:
        """Count a message, and say so at most once a second: a flood of them must not fill the log."""
        self._told(reason)
        with self._lock:
            self._counts[reason] += 1
            total, now = self._counts.total(), time.monotonic()
            if now - self._told_at < TOLD_EVERY_S:
                return
            self._told_at = now
        logger.warning(
            "a message was refused: only wake-ups in JSON belong on a queue",
            extra={"reason": reason, "queue": queue[:64], "refused_so_far": total},
        )


def problem_of(message: Any, queue: str, tasks: Collection[str]) -> str | None:
    """Why a message as it lies in Redis is refused, in one word; `None` if it is taken.

    Args:
        message: What its JSON says.
        queue: Where it was.
        tasks: The names of the tasks that there are.
    """
    if not _is_sound(message):
        return "malformed"
    if message["content-type"] != "application/json" or message["content-encoding"] != "utf-8":
        return "not_json"
    if "compression" in message["headers"]:
        return "compressed"
    if queue.endswith(_PIDBOX):
        return _control_problem(message)
    return _wake_up_problem(message, tasks)


def guard(refusals: Refusals, tasks: Collection[str]) -> None:
    """Let kombu's Redis transports hand nothing else on, in the whole process and from now on.

    Their classes are changed: which of them is used depends on the broker's address.
    """
    deliver = Transport._deliver

    def guarded_deliver(self: Transport, message: Any, queue: str) -> None:
        problem = problem_of(message, str(queue), tasks)
        if problem is None:
            deliver(self, message, queue)
        else:
            refusals.add(problem, str(queue))

    def counted(read: Callable[..., Any]) -> Callable[..., Any]:
        def guarded_read(self: Channel, *args: Any, **options: Any) -> Any:
            try:
                return read(self, *args, **options)
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
                # What was read is off its queue already, and was no JSON; nothing else here parses any.
                refusals.add("malformed", "")
                return True

        return guarded_read

    Transport._deliver = guarded_deliver
    Channel._brpop_read = counted(Channel._brpop_read)
    Channel._receive_one = counted(Channel._receive_one)


def _is_sound(message: Any) -> bool:
    """Whether it has the form of a message of kombu's."""
    if not isinstance(message, dict):
        return False
    properties, headers = message.get("properties"), message.get("headers")
    return (
        isinstance(message.get("body"), str)
        and isinstance(message.get("content-type"), str)
        and isinstance(message.get("content-encoding"), str)
        and isinstance(headers, dict)
        and isinstance(properties, dict)
        and properties.get("body_encoding") == "base64"
        and isinstance(properties.get("delivery_tag"), str)
        and isinstance(properties.get("delivery_info"), dict)
    )


def _control_problem(message: dict[str, Any]) -> str | None:
    if len(message["body"]) > LARGEST_CONTROL:
        return "too_large"
    body = _body(message)
    if not isinstance(body, dict) or not isinstance(body.get("method"), str):
        return "malformed"
    if body.get("pattern") is not None or body.get("matcher") is not None:
        return "not_a_control"  # a regular expression of somebody else's
    forms = (("arguments", dict), ("destination", list), ("reply_to", dict))
    fits = all(isinstance(body.get(name), form | None) for name, form in forms)
    return None if fits and _is_clock(message["headers"].get("clock")) else "malformed"


def _wake_up_problem(message: dict[str, Any], tasks: Collection[str]) -> str | None:
    headers = message["headers"]
    if len(message["body"]) > LARGEST_WAKE_UP:
        return "too_large"
    if len(str(headers)) + len(str(message["properties"])) > LARGEST_WAKE_UP:
        return "too_large"
    if not isinstance(headers.get("task"), str) or headers["task"] not in tasks:
        return "unknown_task"
    return None if _is_wake_up(_body(message), headers) else "not_a_wake_up"


def _is_wake_up(body: Any, headers: Mapping[str, Any]) -> bool:
    """Whether it names one job, and asks for nothing beside."""
    match body:
        case [[str(job_id)], dict(kwargs), dict(calls)]:
            pass
        case _:
            return False
    identity = headers.get("id")
    return (
        _JOB_ID.fullmatch(job_id) is not None
        and isinstance(identity, str)
        and _JOB_ID.fullmatch(identity) is not None
        and not kwargs
        and calls.keys() <= _CALLS
        and not any(calls.values())
        and not any(headers.get(name) for name in _NEVER)
        and headers.get("timelimit") in (None, [None, None])
        and headers.get("argsrepr") in (None, "", repr((job_id,)), repr([job_id]))
        and headers.get("kwargsrepr") in (None, "", "{}")
    )


def _is_clock(value: Any) -> bool:
    return value is None or (isinstance(value, int) and 0 <= value < 2**63)


def _body(message: dict[str, Any]) -> Any:
    """What the body says; `None` if it is not JSON."""
    try:
        return json.loads(base64.b64decode(message["body"], validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
