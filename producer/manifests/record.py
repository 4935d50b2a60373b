"""What a line of a manifest turns out to be: names and values, or nothing of use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A line that could be read. What stands in it has not been looked at.

    Attributes:
        number: Of the line, or of the first one where quoted cells go over several; from 1.
    """

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is no request: where, why, and what to do."""

    number: int
    column: int
    sentence: str
    custom_id: str | None = None
