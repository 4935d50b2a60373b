"""Cells of CSV files that people open in a spreadsheet, which takes a text for a formula by how it begins.

A cell that begins with `=`, `+`, `-` or `@` (or one of their wide forms), with a tab or the end of a line, has
an apostrophe before it, which spreadsheets take for "this is text". So has one that begins with apostrophes
before such a character: whoever removes one apostrophe from cells like these has every text back as it was.
"""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def cell(text: str) -> str:
    """The text as a cell that no spreadsheet computes."""
    return f"'{text}" if _FORMULA.match(text) else text


def text_of(cell: str) -> str:
    """The text that `cell` made this of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
