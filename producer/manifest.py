"""Manifests: JSON Lines files with a job on every line, read as a stream.

A line is an object. `model`, `kind`, `id` (or `custom_id`), `priority`, `alias`, `timeout_s` and
`delay_s` are the job's own; every other key is an argument of the model. Arguments may also stand in
an object under `args`, which an argument needs that is called like one of the job's own keys.

    {"id": "utt-1", "model": "espeak-ng", "text": "Good morning."}
    {"model": "espeak-dtw", "audio": "clips/1.wav", "args": {"text": "Good morning."}}

Paths of audio are relative to the manifest's folder. Blank lines, a byte order mark and CRLF are
accepted. What is wrong with a line concerns this line only.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from soundmill.storage.errors import SubmitRefused
from soundmill.storage.priorities import DEFAULT

from .draft import Draft
from .request import Request

LONGEST_LINE_BYTES = 8 * 1024 * 1024
JOB_KEYS = frozenset({"model", "kind", "id", "custom_id", "priority", "alias", "timeout_s", "delay_s"})
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line adds to every line that does not say otherwise.

    Attributes:
        args: Arguments for every line; a line's own win.
    """

    model: str | None = None
    kind: str | None = None
    priority: int = DEFAULT
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that is a request."""

    number: int
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is none: where, why, and what to do."""

    number: int
    column: int
    sentence: str
    custom_id: str | None = None


def batch_name(manifest: Path, options: Options) -> str:
    """The name of the batch of a manifest: its own name and a short hash of where it is and the options.

    The same command has the same batch, so that it resumes. The priority is no part of it: to run the
    rest of a batch with another one is no other batch.
    """
    resolved = [str(manifest.resolve()), options.model, options.kind, options.args]
    digest = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode(errors="replace")).hexdigest()
    stem = manifest.stem.encode(errors="replace").decode()
    return f"{stem[:100]}-{digest[:8]}"


def line_key(batch: str, line: str) -> str:
    """The idempotency key of a line of a batch.

    Args:
        batch: Its name.
        line: The line's `id`, or what `Occurrences` calls it.
    """
    return "line:" + hashlib.sha256(json.dumps([batch, line]).encode()).hexdigest()


def read_manifest(source: BinaryIO, batch: str, options: Options) -> Iterator[Line | BadLine]:
    """Read a manifest line by line, in the memory of one line.

    Lines with an `id` get their idempotency key here; the others once their audio has been read.

    Args:
        source: The file, opened for reading bytes.
        batch: The batch of all lines.
        options: What is added to every line.
    """
    for number, raw in _raw_lines(source):
        if raw is None:
            yield BadLine(
                number=number,
                column=1,
                sentence=f"the line is longer than {LONGEST_LINE_BYTES} bytes; split it",
            )
        elif raw.strip():
            yield _read_line(number, raw, batch, options)


class Occurrences:
    """Names lines without an `id`: by what they ask for, and how often that was asked before.

    So appended or reordered lines neither double nor shift the others. The counts lie in a temporary
    file of SQLite, since a manifest may have more lines than fit into memory.
    """

    def __init__(self) -> None:
        self._counts = sqlite3.connect("", isolation_level=None)  # an empty name: a file that nobody sees
        self._counts.execute("PRAGMA synchronous = OFF")
        self._counts.execute("PRAGMA journal_mode = OFF")
        self._counts.execute("CREATE TABLE counts (digest BLOB PRIMARY KEY, count INTEGER) WITHOUT ROWID")
        self._counts.execute("BEGIN")

    def name(self, digest: str) -> str:
        """The name of the next line with that digest (hexadecimal)."""
        [(count,)] = self._counts.execute(
            "INSERT INTO counts VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count",
            (bytes.fromhex(digest),),
        ).fetchall()
        return f"\n{digest}/{count}"  # no `id` of a line looks like this: it begins with a newline

    def close(self) -> None:
        """Remove the counts."""
        self._counts.close()


class LineKeys:
    """Gives drafts of lines without an `id` their idempotency key."""

    def __init__(self, batch: str) -> None:
        self._batch = batch
        self._occurrences = Occurrences()

    def __call__(self, draft: Draft) -> str:
        """The key of a draft that has none; called once for each, in the order of the lines."""
        return line_key(self._batch, self._occurrences.name(draft.digest))

    def close(self) -> None:
        """Forget the lines."""
        self._occurrences.close()


class _BadJsonError(Exception):
    def __init__(self, column: int, sentence: str) -> None:
        super().__init__(sentence)
        self.column = column
        self.sentence = sentence


def _raw_lines(source: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Number the lines; `None` stands for one that is too long to be kept."""
    number = 0
    while raw := source.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(_BOM)
        if len(raw) > LONGEST_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := source.readline(LONGEST_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, raw


def _read_line(number: int, raw: bytes, batch: str, options: Options) -> Line | BadLine:
    try:
        line = _parse(raw)
    except _BadJsonError as error:
        return BadLine(number=number, column=error.column, sentence=error.sentence)
    try:
        return Line(number=number, request=_request(line, batch, options))
    except SubmitRefused as error:
        named = line.get("id", line.get("custom_id"))
        return BadLine(number=number, column=1, sentence=str(error), custom_id=named and str(named))


def _parse(raw: bytes) -> dict[str, Any]:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in raw[:64]:
        raise _BadJsonError(1, "the file is not UTF-8 but looks like UTF-16; save it as UTF-8")
    try:
        text = raw.decode("utf-8").rstrip("\r\n")
        value = json.loads(text, object_pairs_hook=_without_doubles)
    except UnicodeDecodeError as error:
        column = len(raw[: error.start].decode()) + 1
        raise _BadJsonError(column, "this byte is not UTF-8; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise _BadJsonError(
            error.colno, f"this is not JSON: {error.msg}; write one object per line"
        ) from error
    except RecursionError as error:
        raise _BadJsonError(1, "the JSON is nested too deeply; a line needs two levels at most") from error
    except ValueError as error:
        raise _BadJsonError(1, str(error)) from error
    if not isinstance(value, dict):
        raise _BadJsonError(1, 'the line is no object; write {"text": …} or the like')
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {double!r} stands twice in one object; keep one")
    return found


def _request(line: dict[str, Any], batch: str, options: Options) -> Request:
    model = line.get("model", options.model)
    if model is None:
        raise SubmitRefused(
            'model: the line names none; add "model" to it or --model to the command', field="model"
        )
    custom_id = _custom_id(line)
    return Request(
        model=model,
        kind=line.get("kind", options.kind),
        args={**options.args, **_arguments(line)},
        alias=line.get("alias"),
        batch=batch,
        custom_id=custom_id,
        idempotency_key=None if custom_id is None else line_key(batch, custom_id),
        priority=line.get("priority", options.priority),
        delay_s=line.get("delay_s", 0.0),
        timeout_s=line.get("timeout_s"),
    )


def _custom_id(line: dict[str, Any]) -> str | None:
    if "id" in line and "custom_id" in line:
        raise SubmitRefused("id: the line has an id and a custom_id; keep one", field="id")
    value = line.get("id", line.get("custom_id"))
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int)
        or value == ""
        or str(value).startswith("\n")
    ):
        raise SubmitRefused("id: give a text or a whole number", field="id")
    return str(value)


def _arguments(line: dict[str, Any]) -> dict[str, Any]:
    inner = line.get("args", {})
    if not isinstance(inner, dict):
        raise SubmitRefused("args: give the arguments as an object of names and values", field="args")
    outer = {name: value for name, value in line.items() if name not in JOB_KEYS and name != "args"}
    if both := outer.keys() & inner.keys():
        raise SubmitRefused(
            f"args: {min(both)!r} stands in the line and in its args; keep one", field=min(both)
        )
    return outer | inner
