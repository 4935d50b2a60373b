"""JSON in a text column: the same bytes on SQLite and PostgreSQL, and no NaN.

PostgreSQL's own `jsonb` refuses a NUL that `json` keeps and reorders keys; nothing here queries
inside a document, so text is enough and behaves the same everywhere.
"""

from __future__ import annotations

import json
from typing import Any

import pydantic_core
from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

# `json.dumps` with arguments of its own builds an encoder for every call.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def to_json(value: Any) -> str:
    """What the column holds of a value.

    Raises:
        ValueError: It is, or holds, NaN or an infinity.
    """
    return _encode(value)


def plain_to_json(value: Any) -> str:
    """The same, several times as fast, of what is known to be JSON's own types all the way down.

    Raises:
        ValueError: As `to_json`.
    """
    try:
        text = pydantic_core.to_json(value).decode()
    except ValueError:  # half a surrogate pair, which `json` lets pass and the database refuses
        return to_json(value)
    # It writes NaN as a word: perhaps the user's. `to_json` can tell.
    return to_json(value) if "NaN" in text or "Infinity" in text else text


class Json(TypeDecorator[Any]):
    """Stores what `json.dumps` can write; NaN and infinities raise `ValueError`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else to_json(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)
