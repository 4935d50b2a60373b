"""What a producer will ask for: the same seed gives the same jobs, so one that crashed can ask again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from soundmill.producer import Request

BULK_LEAST, BULK_MOST = 20, 120
STORM = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What is submitted in one call, and what is decided after it.

    Attributes:
        number: From 0.
        graph: Whether the jobs refer to each other: accepted all or none.
        requests: Each with an idempotency key.
        due: When, as a share of the whole span.
        cancels: How many earlier jobs are cancelled afterwards.
        retries: How many cancelled or discarded ones are brought back.
    """

    number: int
    graph: bool
    requests: tuple[Request, ...]
    due: float
    cancels: int
    retries: int


def prefix_of(seed: int, producer: int, chunk: int) -> str:
    """What the keys of a chunk begin with."""
    return f"{seed}-{producer}-{chunk}-"


def chunks(seed: int, producer: int, jobs: int) -> Iterator[Chunk]:
    """The calls of a producer, until about `jobs` are asked for."""
    rng = random.Random(f"plan/{seed}/{producer}")
    number = asked = 0
    while asked < jobs:
        left = jobs - asked
        graph = rng.random() < 0.45 and left >= 2
        requests = tuple(
            _graph(rng, seed, producer, number, min(left, rng.randint(2, 4)))
            if graph
            else _flat(rng, seed, producer, number, min(left, _size(rng)))
        )
        yield Chunk(
            number=number,
            graph=graph,
            requests=requests,
            due=asked / jobs,
            cancels=_cancels(rng, number),
            retries=rng.randint(1, 3) if rng.random() < 0.3 else 0,
        )
        asked += len(requests)
        number += 1


def _size(rng: random.Random) -> int:
    return 1 if rng.random() < 0.6 else rng.randint(BULK_LEAST, BULK_MOST)


def _cancels(rng: random.Random, number: int) -> int:
    if rng.random() < 0.04 and number > 3:
        return STORM
    return rng.randint(1, 3) if rng.random() < 0.3 else 0


def _flat(rng: random.Random, seed: int, producer: int, chunk: int, count: int) -> Iterator[Request]:
    for place in range(count):
        model = rng.choice(("stub-voice", "stub-voice", "stub-align"))
        yield _request(rng, model, f"{prefix_of(seed, producer, chunk)}{place}", {})


def _graph(rng: random.Random, seed: int, producer: int, chunk: int, count: int) -> Iterator[Request]:
    """A parent and those who read what it, or another of them, made."""
    speak: list[int] = []
    for place in range(count):
        key = f"{prefix_of(seed, producer, chunk)}{place}"
        model = "stub-voice" if not speak or rng.random() < 0.5 else "stub-align"
        read = {"audio": {"job": f"@j{rng.choice(speak)}"}} if speak else {}
        yield _request(rng, model, key, read, alias=f"j{place}")
        if model == "stub-voice":  # only what speaks makes audio for others
            speak.append(place)


def _request(
    rng: random.Random, model: str, key: str, args: dict[str, Any], alias: str | None = None
) -> Request:
    goes = rng.choices(("well", "fails_once", "fails", "refuses"), (93, 4, 1.5, 1.5))[0]
    given = {
        "text": key, "calls": rng.choice((1, 2, 4, 8)), "fresh": rng.random() < 0.5, "goes": goes,
        "size": rng.choice((500, 2000, 20_000)),
    }  # fmt: skip
    return Request(
        model=model,
        args=given | args,
        alias=alias,
        batch=rng.choice(("", "", "one", "two", "three")),
        idempotency_key=key,
        priority=rng.choices(range(10), (1, 1, 2, 2, 6, 2, 2, 1, 1, 2))[0],
        delay_s=rng.uniform(0.1, 2.0) if rng.random() < 0.04 else 0.0,
        timeout_s=rng.uniform(20.0, 50.0) if rng.random() < 0.02 else None,
    )
