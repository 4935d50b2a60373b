"""Streams of requests: chunks, refusals one by one, aliases, bounded reading ahead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from soundmill.producer import Producer, Request, stream
from soundmill.storage.errors import IdempotencyConflict, SubmitRefused

from .playing import finish, rows_of


def speech(text: str, **more: object) -> Request:
    return Request(model="espeak-ng", args={"text": text}, **more)  # type: ignore[arg-type]


def test_a_bad_item_is_refused_and_the_rest_goes_on(producer: Producer) -> None:
    producer.submit(speech("taken", idempotency_key="k"))
    items = [
        speech("one"),
        speech(""),
        speech("two", idempotency_key="k"),
        Request(model="acoustic", args={"audio": {"job": "nobody"}}),
        "no request at all",
        speech("three", idempotency_key="new"),
        speech("three", idempotency_key="new"),
        speech("four", idempotency_key="new"),
    ]
    answers = list(producer.submit_many(items))  # type: ignore[arg-type]

    assert [answer.index for answer in answers] == list(range(8))
    assert [answer.refusal is None for answer in answers] == [
        True,
        False,
        False,
        False,
        False,
        True,
        True,
        False,
    ]
    assert [answer.fresh for answer in answers] == [True, False, False, False, False, True, False, False]
    assert isinstance(answers[2].refusal, IdempotencyConflict)
    assert isinstance(answers[7].refusal, IdempotencyConflict)
    assert answers[5].job is not None
    assert answers[6].job is not None
    assert answers[5].job.id == answers[6].job.id
    assert [row.args["text"] for row in rows_of(producer.database)] == ["taken", "one", "three"]


def test_a_stream_that_is_sent_again_adds_nothing(producer: Producer) -> None:
    def items() -> Iterator[Request]:
        return (speech(str(number), idempotency_key=f"k{number}") for number in range(1200))

    first = [answer.job.id for answer in producer.submit_many(items()) if answer.job]
    again = list(producer.submit_many(items()))

    assert [answer.job.id for answer in again if answer.job] == first
    assert not any(answer.fresh for answer in again)
    assert len(rows_of(producer.database)) == 1200


def test_it_reads_one_chunk_ahead_and_no_further(small_producer: Producer) -> None:
    read = itertools.count()
    endless = (speech(str(next(read))) for _ in itertools.count())
    for _ in itertools.islice(small_producer.submit_many(endless), 10):
        pass

    assert next(read) == stream.CHUNK


def test_aliases_reach_over_chunks_and_refusals_reach_the_children(
    small_producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 2)

    def child(alias: str) -> Request:
        return Request(model="acoustic", args={"audio": {"job": f"@{alias}"}})

    answers = list(
        small_producer.submit_many(
            [
                speech("a", alias="a"),
                child("a"),
                child("a"),
                speech("", alias="bad"),
                child("bad"),
                child("later"),
                speech("later", alias="later"),
                speech("again", alias="a"),
            ]
        )
    )

    assert [str(answer.refusal or "") for answer in answers] == [
        "",
        "",
        "",
        "text: the text is empty; give at least one word",
        "audio.job: the job with the alias 'bad' was refused",
        "audio.job: nothing before it has the alias 'later'",
        "",
        "alias: an earlier item has the alias 'a' already",
    ]
    parents = {row.args["audio"]["job"] for row in rows_of(small_producer.database) if row.kind == "caption"}
    assert parents == {answers[0].job.id if answers[0].job else ""}


def test_only_the_last_aliases_are_remembered(
    small_producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 2)
    monkeypatch.setattr(stream, "ALIASES", 3)
    items = [speech(str(number), alias=f"a{number}") for number in range(6)]
    children = [Request(model="acoustic", args={"audio": {"job": f"@a{number}"}}) for number in (0, 5)]
    answers = list(small_producer.submit_many([*items, *children]))

    assert isinstance(answers[6].refusal, SubmitRefused)
    assert answers[7].job is not None


def test_a_known_parent_in_another_state_serves_its_new_children(producer: Producer) -> None:
    [parent] = [answer.job for answer in producer.submit_many([speech("a", alias="p", idempotency_key="p")])]
    assert parent is not None
    finish(producer, parent.id)
    again = list(
        producer.submit_many(
            [
                speech("a", alias="p", idempotency_key="p"),
                Request(model="acoustic", args={"audio": {"job": "@p"}}),
            ]
        )
    )

    assert again[0].job is not None
    assert again[0].job.id == parent.id
    assert again[1].job is not None
    assert again[1].job.state == "available"
    assert again[1].job.get().args["audio"] == {"job": parent.id}
