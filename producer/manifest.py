"""Manifests: files with a job on every line, read as a stream.

In our own format a line is an object. `model`, `kind`, `id` (or `custom_id`), `priority`, `alias`,
`timeout_s` and `delay_s` are the job's own; every other key is an argument of the model. Arguments
may also stand in an object under `args`, which an argument needs that is called like one of the job's
own keys.

    {"id": "utt-1", "model": "espeak-ng", "text": "Good morning."}
    {"model": "espeak-dtw", "audio": "clips/1.wav", "args": {"text": "Good morning."}}

The other formats, and which argument a column of theirs fills, are in `manifests`. Paths of audio are
relative to the manifest's folder. Blank lines, a byte order mark and CRLF are accepted. What is wrong
with a line concerns this line only.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from soundmill.storage.errors import SubmitRefused
from soundmill.storage.priorities import DEFAULT

from .draft import Draft
from .manifests.columns import JOB_KEYS, Sorted, sort_columns
from .manifests.json_lines import read_json_lines
from .manifests.layout import OWN, Format, Layout
from .manifests.record import BadLine, Record
from .manifests.table import read_table
from .request import Request

if TYPE_CHECKING:
    from soundmill.storage.catalog import Catalog

__all__ = ["BadLine", "Line", "LineKeys", "Occurrences", "Options", "batch_name", "line_key", "read_manifest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line adds to every line that does not say otherwise.

    Attributes:
        args: Arguments for every line; a line's own win.
        dropped: Columns that are not used.
    """

    model: str | None = None
    kind: str | None = None
    priority: int = DEFAULT
    args: Mapping[str, Any] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that is a request.

    Attributes:
        unused: Its columns that fill no argument.
    """

    number: int
    request: Request
    unused: frozenset[str] = frozenset()


NAMELESS = ("metadata", "meta")
"""Files of these names are told apart by the folder they lie in."""


def batch_name(manifest: Path, options: Options, format: Format = Format.JSONL) -> str:
    """The name of the batch of a manifest: its own name and a short hash of where it is and the options.

    The same command has the same batch, so that it resumes. The priority is no part of it: to run the
    rest of a batch with another one is no other batch.
    """
    resolved: list[Any] = [str(manifest.resolve()), options.model, options.kind, options.args]
    if options.dropped:
        resolved.append(sorted(options.dropped))
    if format != Format.JSONL:
        resolved.append(format.value)
    digest = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode(errors="replace")).hexdigest()
    named = manifest.resolve().parent.name if manifest.stem in NAMELESS else manifest.stem
    stem = (named or manifest.stem).encode(errors="replace").decode()
    return f"{stem[:100]}-{digest[:8]}"


def line_key(batch: str, line: str) -> str:
    """The idempotency key of a line of a batch.

    Args:
        batch: Its name.
        line: The line's `id`, or what `Occurrences` calls it.
    """
    return "line:" + hashlib.sha256(json.dumps([batch, line]).encode()).hexdigest()


def read_manifest(
    source: BinaryIO, batch: str, options: Options, layout: Layout = OWN, catalog: Catalog | None = None
) -> Iterator[Line | BadLine]:
    """Read a manifest line by line, in the memory of one line.

    Lines with an `id` get their idempotency key here; the others once their audio has been read.

    Args:
        source: The file, opened for reading bytes.
        batch: The batch of all lines.
        options: What is added to every line.
        layout: How the file is written.
        catalog: The models, which every format but our own needs.

    Raises:
        SubmitRefused: The file has a header that is of no use.
    """
    records = read_json_lines(source) if layout.separator is None else read_table(source, layout)
    for record in records:
        yield record if isinstance(record, BadLine) else _line(record, batch, options, layout, catalog)


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


def _line(
    record: Record, batch: str, options: Options, layout: Layout, catalog: Catalog | None
) -> Line | BadLine:
    values = record.values
    try:
        found = _sorted(values, options, layout, catalog)
        request = _request(found, batch, options)
    except SubmitRefused as error:
        named = values.get("id", values.get("custom_id"))
        return BadLine(
            number=record.number, column=1, sentence=str(error), custom_id=str(named) if named else None
        )
    return Line(number=record.number, request=request, unused=frozenset(found.unused))


def _sorted(values: Mapping[str, Any], options: Options, layout: Layout, catalog: Catalog | None) -> Sorted:
    """The job's own keys and the arguments of a line."""
    inner = values.get("args", {}) if layout.separator is None else {}
    if not isinstance(inner, dict):
        raise SubmitRefused("args: give the arguments as an object of names and values", field="args")
    outer = {name: value for name, value in values.items() if name != "args" or layout.separator is not None}
    if layout.format == Format.JSONL or catalog is None:
        found = Sorted(unused=outer.keys() & options.dropped)
        for name, value in outer.items():
            if name not in options.dropped:
                (found.own if name in JOB_KEYS else found.args)[name] = value
    else:
        model = catalog.get(_model(values, options), values.get("kind") or options.kind)
        found = sort_columns(outer, layout, model, options.dropped)
    if both := found.args.keys() & inner.keys():
        raise SubmitRefused(
            f"args: {min(both)!r} stands in the line and in its args; keep one", field=min(both)
        )
    found.args |= inner
    return found


def _model(own: Mapping[str, Any], options: Options) -> str:
    model = own.get("model") or options.model
    if model is None:
        raise SubmitRefused(
            'model: the line names none; add "model" to it or --model to the command', field="model"
        )
    if not isinstance(model, str):
        raise SubmitRefused("model: give a text", field="model")
    return model


def _request(found: Sorted, batch: str, options: Options) -> Request:
    own = found.own
    custom_id = _custom_id(own)
    return Request(
        model=_model(own, options),
        kind=own.get("kind", options.kind),
        args={**options.args, **found.args},
        alias=own.get("alias"),
        batch=batch,
        custom_id=found.label if custom_id is None else custom_id,
        idempotency_key=None if custom_id is None else line_key(batch, custom_id),
        priority=own.get("priority", options.priority),
        delay_s=own.get("delay_s", 0.0),
        timeout_s=own.get("timeout_s"),
    )


def _custom_id(line: Mapping[str, Any]) -> str | None:
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
