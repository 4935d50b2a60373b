"""JSON in a text column: the same bytes on SQLite and PostgreSQL, and no NaN.

PostgreSQL's own `jsonb` refuses a NUL that `json` keeps and reorders keys; nothing here queries
inside a document, so text is enough and behaves the same everywhere.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator


class Json(TypeDecorator[Any]):
    """Stores what `json.dumps` can write; NaN and infinities raise `ValueError`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)
