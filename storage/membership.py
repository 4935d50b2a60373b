"""Whether a column holds one of many values, asked with a single bound value.

With `IN` and a thousand values SQLAlchemy and the driver handle each by itself, which costs ten times
what the database needs to answer.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Connection,
    Text,
    any_,
    bindparam,
    cast,
    column,
    func,
    literal,
    select,
)
from sqlalchemy.orm import InstrumentedAttribute

from .jsontype import plain_to_json


def among(
    connection: Connection, attribute: InstrumentedAttribute[Any], values: Collection[str]
) -> ColumnElement[bool]:
    """Whether a column of text holds one of the values. Uses its index as `IN` does."""
    given = literal(plain_to_json(list(values)), Text())
    if connection.dialect.name == "postgresql":
        # An array is evaluated once, and searched for along the index; a subquery could become a join.
        texts = select(func.json_array_elements_text(cast(given, JSON()))).scalar_subquery()
        return attribute == any_(func.array(texts))
    return attribute.in_(select(column("value")).select_from(func.json_each(given)))


def among_bound(dialect: str, attribute: InstrumentedAttribute[Any], name: str) -> ColumnElement[bool]:
    """The same for a statement that is built once, of a list that is bound to `name`.

    On PostgreSQL the statement is the same for any number of values, so that the server need not plan it
    anew for each; SQLite plans in no time.
    """
    if dialect == "postgresql":
        return attribute == any_(bindparam(name, type_=ARRAY(Text())))
    return attribute.in_(bindparam(name, expanding=True))
