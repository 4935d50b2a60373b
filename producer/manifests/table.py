"""Cells between separators: CSV and TSV with a header, and the formats of `a|b|c` without one.

With a header, cells are quoted as in RFC 4180 and may hold line breaks. Without one there is no
quoting at all: LJSpeech's own sentences hold quotation marks as they are.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from soundmill.storage.errors import SubmitRefused

from .layout import FEWEST_CELLS, Layout
from .lines import NOT_UTF8, UTF16, looks_like_utf16, raw_lines, too_long
from .record import BadLine, Record

# A cell that is longer has swallowed the lines after a quotation mark that nobody closed.
LONGEST_CELL = 128 * 1024


def read_table(source: BinaryIO, layout: Layout) -> Iterator[Record | BadLine]:
    """Read a file row by row. Empty cells are left out of a record.

    Raises:
        SubmitRefused: The header is of no use.
    """
    texts = _Texts(source)
    rows = _rows(texts, layout)
    names = layout.names or _header(rows)
    fewest = FEWEST_CELLS.get(layout.format, len(names))
    for number, row in rows:
        if isinstance(row, str):
            yield BadLine(number=number, column=1, sentence=row)
        elif problem := _problem(row, fewest, len(names)):
            yield BadLine(number=number, column=1, sentence=problem)
        else:
            cells = zip(names, row, strict=False)
            yield Record(number=number, values={name: cell for name, cell in cells if cell.strip()})
        yield from texts.bad()
    yield from texts.bad()


class _Texts:
    """The numbered lines as texts; those that are of no use are kept aside for a while."""

    def __init__(self, source: BinaryIO) -> None:
        self._lines = raw_lines(source)
        self._again: deque[tuple[int, str]] = deque()
        self._bad: deque[BadLine] = deque()

    def next(self) -> tuple[int, str] | None:
        """The next line that is not blank, or `None` at the end."""
        if self._again:
            return self._again.popleft()
        for number, raw in self._lines:
            if raw is None:
                self._bad.append(BadLine(number=number, column=1, sentence=too_long()))
            elif number == 1 and looks_like_utf16(raw):
                raise SubmitRefused(f"line 1: {UTF16}")
            elif raw.strip():
                return number, raw.decode("utf-8", "surrogateescape")
        return None

    def give_back(self, lines: Sequence[tuple[int, str]]) -> None:
        """Let lines come again."""
        self._again.extendleft(reversed(lines))

    def bad(self) -> Iterator[BadLine]:
        while self._bad:
            yield self._bad.popleft()


def _rows(texts: _Texts, layout: Layout) -> Iterator[tuple[int, list[str] | str]]:
    """Rows with the number of their first line; a sentence for one that cannot be read."""
    quoting: Any = csv.QUOTE_NONE if layout.names else csv.QUOTE_MINIMAL
    separator = layout.separator or ","
    while (line := texts.next()) is not None:
        taken = [line]
        # A reader of its own for each row, so that what is wrong with one says nothing of the next.
        reader = csv.reader(_growing(taken, texts), delimiter=separator, quoting=quoting, strict=True)
        try:
            yield line[0], next(reader)
        except csv.Error as error:
            texts.give_back(taken[1:])
            if separator == "\t":  # many a writer of TSV quotes nothing, since no cell holds a tab
                yield line[0], line[1].rstrip("\r\n").split("\t")
            else:
                yield line[0], f"{error}: close the quotation marks, and double those inside a cell"


def _growing(taken: list[tuple[int, str]], texts: _Texts) -> Iterator[str]:
    """The line taken, then those after it as long as a quoted cell goes on and stays short enough."""
    yield taken[0][1]
    read = len(taken[0][1])
    while read < LONGEST_CELL and (line := texts.next()) is not None:
        taken.append(line)
        read += len(line[1])
        yield line[1]


def _header(rows: Iterator[tuple[int, list[str] | str]]) -> Sequence[str]:
    number, row = next(rows, (1, []))
    if isinstance(row, str):
        raise SubmitRefused(f"line {number}: {row}")
    names = [name.strip() for name in row]
    if any(_undecodable(name) for name in names):
        raise SubmitRefused(f"line {number}: the header is not UTF-8; save the file as UTF-8")
    double = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if double is not None:
        raise SubmitRefused(f"line {number}: the header has {double!r} twice; rename or remove one")
    return names


def _problem(row: list[str], fewest: int, most: int) -> str | None:
    if not fewest <= len(row) <= most:
        wanted = str(most) if fewest == most else f"{fewest} to {most}"
        return f"the line has {len(row)} cells where {wanted} are expected; quote a cell that holds the separator"
    if any(_undecodable(cell) for cell in row):
        return NOT_UTF8
    return None


def _undecodable(cell: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in cell) if not cell.isascii() else False
