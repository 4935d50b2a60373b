"""What became of the lines of a manifest, in the memory of a few of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .manifests.record import BadLine

KEPT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A line that became no job."""

    line: int
    column: int | None
    custom_id: str | None
    sentence: str

    def shown(self, file: str) -> str:
        """As a line for people."""
        column = "" if self.column is None else f":{self.column}"
        named = "" if self.custom_id is None else f" ({self.custom_id})"
        return f"{file}:{self.line}{column}{named}: {self.sentence}"

    def as_json(self, file: str) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "file": file,
            "line": self.line,
            "column": self.column,
            "custom_id": self.custom_id,
            "error": self.sentence,
        }


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of lines.

    Attributes:
        fresh: Lines that became new jobs.
        known: Lines whose jobs were there already.
        refusals: The first of those that became none.
        unused: Columns that filled no argument of any line.
    """

    lines: int = 0
    fresh: int = 0
    known: int = 0
    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)

    def refuse(self, refusal: Refusal) -> None:
        self.refused += 1
        if len(self.refusals) < KEPT:
            self.refusals.append(refusal)

    def refuse_bad(self, bad: BadLine) -> None:
        self.refuse(
            Refusal(line=bad.number, column=bad.column, custom_id=bad.custom_id, sentence=bad.sentence)
        )
