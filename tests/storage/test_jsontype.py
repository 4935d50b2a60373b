"""Documents in a text column."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from soundmill.storage.database import Database
from soundmill.storage.jsontype import Json, plain_to_json

from .jobs import see, submit

DIALECT = sqlite.dialect()
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(DOCUMENTS)
def test_a_document_comes_back_as_it_went_in(document: Any) -> None:
    column = Json()
    stored = column.process_bind_param(document, DIALECT)

    assert stored is None or "\x00" not in stored
    assert column.process_result_value(stored, DIALECT) == document


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_word_for_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Json().process_bind_param({"x": [number]}, DIALECT)
    with pytest.raises(ValueError, match="not JSON compliant"):
        plain_to_json({"x": [number]})


@given(DOCUMENTS)
def test_the_fast_way_writes_the_same_document(document: Any) -> None:
    assert json.loads(plain_to_json(document)) == document


def test_a_word_that_looks_like_a_number_json_lacks_is_a_text() -> None:
    assert json.loads(plain_to_json(["NaN", "-Infinity"])) == ["NaN", "-Infinity"]


def test_the_database_keeps_the_bytes_and_the_order_of_keys(database: Database) -> None:
    args = {"z": "ä\u2028☃🎵\x00", "a": [1, 2.5, None, True, {"ü": ""}]}
    found = see(database, submit(database, args=args)).args

    assert found == args
    assert list(found) == ["z", "a"]
