"""What commands print: answers on standard output, everything else on standard error.

Texts of submitters can hold anything, also control characters that a terminal would obey; they are
shown as replacement characters, and in JSON as escapes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from soundmill.storage.printing import escaped, plain

if TYPE_CHECKING:
    from rich.console import Console

PIPED_COLUMNS = 200


def say(text: str) -> None:
    """A line on standard error."""
    typer.echo(plain(text), err=True)


def fail(text: str) -> None:
    """A red line on standard error."""
    typer.secho(plain(text), fg=typer.colors.RED, err=True)


def answer(text: str = "") -> None:
    """A line on standard output."""
    typer.echo("\n".join(plain(line) for line in text.split("\n")))


def answer_json(value: Any) -> None:
    """A JSON document on standard output."""
    typer.echo(escaped(json.dumps(value, ensure_ascii=False, indent=2, default=str), keep="\n"))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """A table on standard output; columns whose name begins with `>` are aligned right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns)
    )
    for column in columns:
        last = column == columns[-1]
        grid.add_column(
            column.removeprefix(">"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=not last,
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*(Text("" if cell is None else plain(str(cell))) for cell in row))
    stdout().print(grid)


def stdout() -> Console:
    """Standard output, wide enough for a table when it is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS, highlight=False)


def stderr() -> Console:
    """Standard error, for progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def clock(at: float | None) -> str:
    """A time in seconds since 1970 as local date and time."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def seconds(span: float | None) -> str:
    """A span of time for people."""
    return "" if span is None else f"{span:.3f} s" if span < 10 else f"{span:.1f} s"


def hours(span: float) -> str:
    """A span of time that may be long, as hours with the seconds beside them."""
    return f"{span / 3600:.2f} h ({span:.0f} s)"


def short(value: Mapping[str, Any] | None, limit: int = 120) -> str:
    """A mapping on one line."""
    text = "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"
