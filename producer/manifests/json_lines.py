"""JSON Lines: an object on every line. Blank lines, a byte order mark and CRLF are accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from .lines import NOT_UTF8, UTF16, looks_like_utf16, raw_lines, too_long
from .record import BadLine, Record


class BadJsonError(Exception):
    """A line is no object; with the column (from 1) and a sentence."""

    def __init__(self, column: int, sentence: str) -> None:
        super().__init__(sentence)
        self.column = column
        self.sentence = sentence


def read_json_lines(source: BinaryIO) -> Iterator[Record | BadLine]:
    """Read a file line by line."""
    for number, raw in raw_lines(source):
        if raw is None:
            yield BadLine(number=number, column=1, sentence=too_long())
        elif raw.strip():
            try:
                yield Record(number=number, values=parse_object(raw))
            except BadJsonError as error:
                yield BadLine(number=number, column=error.column, sentence=error.sentence)


def parse_object(raw: bytes) -> dict[str, Any]:
    """The object on one line.

    Raises:
        BadJsonError: There is none.
    """
    if looks_like_utf16(raw):
        raise BadJsonError(1, UTF16)
    try:
        text = raw.decode("utf-8").rstrip("\r\n")
        value = json.loads(text, object_pairs_hook=_without_doubles)
    except UnicodeDecodeError as error:
        column = len(raw[: error.start].decode()) + 1
        raise BadJsonError(column, NOT_UTF8) from error
    except json.JSONDecodeError as error:
        raise BadJsonError(
            error.colno, f"this is not JSON: {error.msg}; write one object per line"
        ) from error
    except RecursionError as error:
        raise BadJsonError(1, "the JSON is nested too deeply; a line needs two levels at most") from error
    except ValueError as error:
        raise BadJsonError(1, str(error)) from error
    if not isinstance(value, dict):
        raise BadJsonError(1, 'the line is no object; write {"text": …} or the like')
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {double!r} stands twice in one object; keep one")
    return found
