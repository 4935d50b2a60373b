"""Manifests: what a line may be, and what is said of one that is not."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import soundmill.producer.manifests.lines as manifest_lines
from soundmill.producer import manifest
from soundmill.producer.manifest import BadLine, Line, Occurrences, Options, batch_name, read_manifest
from soundmill.producer.request import Request


def read(content: bytes | str, **options: Any) -> list[Line | BadLine]:
    raw = content.encode() if isinstance(content, str) else content
    return list(read_manifest(io.BytesIO(raw), "b", Options(**({"model": "espeak-ng"} | options))))


def request_of(content: bytes | str, **options: Any) -> Request:
    [line] = read(content, **options)
    assert isinstance(line, Line)
    return line.request


def test_a_line_holds_the_jobs_own_keys_and_arguments() -> None:
    request = request_of(
        '{"model": "m", "kind": "tts", "id": 7, "priority": 9, "alias": "a", "timeout_s": 5, "delay_s": 1,'
        ' "text": "t", "args": {"id": "an argument"}}'
    )

    assert request == Request(
        model="m", kind="tts", custom_id="7", priority=9, alias="a", timeout_s=5, delay_s=1, batch="b",
        args={"text": "t", "id": "an argument"}, idempotency_key=request.idempotency_key,
    )  # fmt: skip
    assert request.idempotency_key == manifest.line_key("b", "7")


def test_options_fill_what_a_line_leaves_open() -> None:
    request = request_of('{"text": "t", "speed": 2}', kind="tts", priority=1, args={"speed": 1, "pitch": 5})

    assert (request.model, request.kind, request.priority) == ("espeak-ng", "tts", 1)
    assert request.args == {"text": "t", "speed": 2, "pitch": 5}
    assert request.idempotency_key is None


def test_a_byte_order_mark_crlf_and_blank_lines_are_accepted() -> None:
    content = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n   \n\n{"text": "\xc3\xa4"}'
    found = read(content)

    assert [(line.number, line.request.args["text"]) for line in found if isinstance(line, Line)] == [
        (1, "a"),
        (5, "ä"),
    ]


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        (b'{"text": "a"', 13, "not JSON"),
        (b'{"text": }', 10, "not JSON"),
        (b'{"text": "a"} {}', 15, "Extra data"),
        (b'{"te\xc3\xa4xt": "\xff"}', 12, "not UTF-8"),
        (b"[1, 2]", 1, "no object"),
        (b'"text"', 1, "no object"),
        (b'{"text": "a", "text": "b"}', 1, "'text' stands twice"),
        (b'{"id": true}', 1, "id: give a text or a whole number"),
        (b'{"id": ""}', 1, "id: give a text or a whole number"),
        (b'{"id": 1, "custom_id": 2}', 1, "keep one"),
        (b'{"args": 1}', 1, "args: give the arguments as an object"),
        (b'{"text": "a", "args": {"text": "b"}}', 1, "'text' stands in the line and in its args"),
        (b"\xff\xfe{\x00", 1, "UTF-16"),
        (b'{"a": ' + b"[" * 100_000, 1, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", 1, "digits"),
    ],
)
def test_a_bad_line_is_named_with_its_place_and_a_remedy(line: bytes, column: int, words: str) -> None:
    before, bad, after = read(b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')

    assert isinstance(before, Line)
    assert isinstance(after, Line)
    assert isinstance(bad, BadLine)
    assert (bad.number, bad.column) == (2, column)
    assert words in bad.sentence


def test_a_line_without_a_model_says_how_to_name_one() -> None:
    [bad] = read('{"text": "a"}', model=None)

    assert isinstance(bad, BadLine)
    assert "--model" in bad.sentence


def test_a_huge_line_is_refused_without_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_lines, "LONGEST_LINE_BYTES", 1000)
    content = b'{"text": "a"}\n{"text": "' + b"x" * 5000 + b'"}\n{"text": "b"}\n' + b"y" * 3000
    found = read(content)

    assert [(line.number, isinstance(line, Line)) for line in found] == [
        (1, True),
        (2, False),
        (3, True),
        (4, False),
    ]


def test_a_long_manifest_is_read_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        for number in range(30_000):
            file.write(f'{{"text": "{number}"}}\n')
    tracemalloc.start()
    names = Occurrences()
    with path.open("rb") as source:
        for line in read_manifest(source, "b", Options(model="m")):
            names.name(f"{line.number:064x}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    names.close()

    assert peak < 1_000_000


def test_equal_lines_are_told_apart_by_their_occurrence() -> None:
    names = Occurrences()
    found = [names.name(digest * 32) for digest in ("aa", "bb", "aa", "aa", "bb")]
    names.close()

    assert len(set(found)) == 5
    again = Occurrences()
    # Reordered and appended lines keep their names.
    assert {again.name(digest * 32) for digest in ("bb", "aa", "bb", "aa", "cc", "aa")} > set(found)
    again.close()


def test_the_batch_is_named_after_the_manifest_and_the_options(tmp_path: Path) -> None:
    path = tmp_path / "long name ü.jsonl"
    name = batch_name(path, Options(model="m"))

    assert name == batch_name(tmp_path / "." / "long name ü.jsonl", Options(model="m", priority=9))
    others = [
        batch_name(path, Options(model="n")),
        batch_name(path, Options(model="m", args={"speed": 2})),
        batch_name(tmp_path / "other" / path.name, Options(model="m")),
    ]
    assert len({name, *others}) == 4
    assert name.startswith("long name ü-")
