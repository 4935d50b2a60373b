"""Texts of strangers on a terminal and in a log."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.storage.printing import escaped, plain

# A title of a window, a moved cursor, an 8-bit CSI, a turned direction, a hidden mark, ends of lines.
OBEYED = [
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "\x9b2J",
    "\u202egpj.exe",
    "\u2066",
    "\ufeff",
    "\u2028",
    "\x85",
    "\r",
    "\n",
    "\x00",
    "\x7f",
]


@pytest.mark.parametrize("text", OBEYED)
def test_nothing_that_is_obeyed_passes(text: str) -> None:
    assert plain(f"a{text}b").isprintable()
    assert escaped(f"a{text}b").isprintable()


@given(st.text(max_size=40))
def test_an_escaped_document_says_the_same(text: str) -> None:
    written = escaped(json.dumps({"text": text}, ensure_ascii=False, indent=1), keep="\n")
    assert json.loads(written) == {"text": text}
    assert all(
        letter == "\n" or letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in written
    )


@pytest.mark.parametrize("text", ["Grüße", "日本　語", "naïve\u00a0é", "👍", "\t"[:0]])
def test_what_people_write_stays(text: str) -> None:
    assert plain(text) == escaped(text) == text
