"""Cells that a spreadsheet would compute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.producer.export.cells import cell, text_of

SIGNS = "=+-@\t\r\n＝＋－＠"


@pytest.mark.parametrize("sign", SIGNS)
def test_no_cell_begins_like_a_formula(sign: str) -> None:
    assert cell(f"{sign}cmd|' /C calc'!A0") == f"'{sign}cmd|' /C calc'!A0"
    assert cell(f"a{sign}b") == f"a{sign}b"


@given(st.text(alphabet=SIGNS + "'ab", max_size=6) | st.text(max_size=20))
def test_every_text_comes_back(text: str) -> None:
    assert not cell(text).startswith(tuple(SIGNS))
    assert text_of(cell(text)) == text
