"""A verification as a document: Markdown, or HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from .limits import PAGES
from .table import (
    COMPONENT_COLUMNS,
    LIMIT_COLUMNS,
    TENSOR_COLUMNS,
    TRIAL_COLUMNS,
    component_rows,
    headline,
    limit_rows,
    stamp_rows,
    tensor_rows,
    trial_rows,
)
from .verification import Side, Verification

FORMS = (".html", ".htm", ".md", ".markdown")

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8885; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
td:last-child { min-width: 22rem; }
tr.wrong td { background: #d3333322; }
.pass { color: #15803d; } .fail { color: #c22f2f; font-weight: 600; }
@media (prefers-color-scheme: dark) { .pass { color: #4ade80; } .fail { color: #f87171; } }
"""

_PAGE = "The published page of this model on Ascend:"

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def write_report(verification: Verification, path: Path) -> None:
    """Write a report whose form the name's ending tells, one of `FORMS`; whole or not at all.

    Raises:
        OSError: It cannot be written there.
    """
    text = markdown(verification) if path.suffix.lower() in (".md", ".markdown") else html(verification)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def markdown(verification: Verification) -> str:
    """The report as Markdown with tables."""
    return "\n".join(_markdown(verification)) + "\n"


def html(verification: Verification) -> str:
    """The report as one HTML file: no scripts, and nothing is fetched."""
    return "\n".join(_html(verification)) + "\n"


def _facts(verification: Verification) -> Table:
    columns = (
        "",
        f"reference: {verification.reference.seat}",
        *(str(side.seat) for side in verification.sides),
    )
    return columns, stamp_rows(verification)


def _tables(side: Side) -> Iterator[tuple[str, Table]]:
    if side.lines:
        yield "Components, fed with the reference's inputs", (COMPONENT_COLUMNS, component_rows(side))
    if side.hearings:
        yield "End to end (examined / reference)", (TRIAL_COLUMNS, trial_rows(side))


# -- Markdown ------------------------------------------------------------------------------------------


def _markdown(verification: Verification) -> Iterator[str]:
    yield f"# {_plain(headline(verification))}"
    yield from _markdown_table(_facts(verification))
    if verification.reference.failure is not None:
        yield f"\n- {_plain(verification.reference.failure)}"
    for side in verification.sides:
        yield f"\n## {_plain(str(side.seat))}: {'passed' if side.ok else 'FAILED'}\n"
        yield from (f"- {_plain(failed)}" for failed in side.failed)
        for title, table in _tables(side):
            yield f"\n### {title}"
            yield from _markdown_table(table)
        if side.lines:
            yield "\n### Every tensor"
            yield from _markdown_table((TENSOR_COLUMNS, tensor_rows(side)))
    yield "\n## Limits"
    yield from _markdown_table((LIMIT_COLUMNS, limit_rows(verification)))
    if (page := PAGES.get(verification.order.model)) is not None:
        yield f"\n{_PAGE} {_plain(page)}."
    yield "\n## Texts\n"
    yield from (
        f"- {_plain(name)} ({_plain(text.language)}): {_plain(text.words)}"
        for name, text in verification.order.material.texts.items()
    )


def _markdown_table(table: Table) -> Iterator[str]:
    columns, rows = table
    yield ""
    yield f"| {' | '.join(map(_plain, columns))} |"
    yield f"|{' --- |' * len(columns)}"
    yield from (f"| {' | '.join(map(_plain, row))} |" for row in rows)


def _plain(text: str) -> str:
    """Words that Markdown leaves as they are."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in line)


# -- HTML ----------------------------------------------------------------------------------------------


def _html(verification: Verification) -> Iterator[str]:
    title = escape(headline(verification))
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    yield f'<h1 class="{"pass" if verification.ok else "fail"}">{title}</h1>'
    yield from _html_table(_facts(verification))
    if verification.reference.failure is not None:
        yield f'<p class="fail">{escape(verification.reference.failure)}</p>'
    for side in verification.sides:
        yield from _html_side(side)
    yield "<h2>Limits</h2>"
    yield from _html_table((LIMIT_COLUMNS, limit_rows(verification)))
    if (page := PAGES.get(verification.order.model)) is not None:
        yield f"<p>{_PAGE} {escape(page)}.</p>"
    yield "<h2>Texts</h2>\n<ul>"
    for name, text in verification.order.material.texts.items():
        yield f"<li>{escape(name)} ({escape(text.language)}): {escape(text.words)}</li>"
    yield "</ul>\n</body>\n</html>"


def _html_side(side: Side) -> Iterator[str]:
    yield f"<h2>{escape(str(side.seat))}: {'passed' if side.ok else 'failed'}</h2>"
    if side.failed:
        yield "<ul>"
        yield from (f'<li class="fail">{escape(failed)}</li>' for failed in side.failed)
        yield "</ul>"
    for title, table in _tables(side):
        yield f"<h3>{escape(title)}</h3>"
        yield from _html_table(table)
    if side.lines:
        yield "<details>\n<summary>Every tensor</summary>"
        yield from _html_table((TENSOR_COLUMNS, tensor_rows(side)))
        yield "</details>"


def _html_table(table: Table) -> Iterator[str]:
    columns, rows = table
    yield "<table>\n<thead><tr>" + "".join(f"<th>{escape(name)}</th>" for name in columns) + "</tr></thead>"
    yield "<tbody>"
    for row in rows:
        wrong = ' class="wrong"' if "fail" in row else ""
        yield f"<tr{wrong}>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody>\n</table>"


def _cell(text: str) -> str:
    return f'<span class="{text}">{text}</span>' if text in ("pass", "fail") else escape(text)
