"""Cutting texts into parts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.models.csm.sentences import PART_BYTES, most_frames, split_text


@pytest.mark.parametrize(
    ("text", "most", "parts"),
    [
        ("One. Two! Three?", 300, ["One. Two! Three?"]),
        ("One sentence. Another one.", 16, ["One sentence.", "Another one."]),
        ("Dr. Smith came. He left.", 16, ["Dr. Smith came.", "He left."]),
        ("At 5 p.m. it rang. Then, peace.", 20, ["At 5 p.m. it rang.", "Then, peace."]),
        ('"Did he?" she asked. He did!', 21, ['"Did he?" she asked.', "He did!"]),
        ("A title\nA text.", 9, ["A title", "A text."]),
        ("今天天气很好。我们去公园吧！", 24, ["今天天气很好。", "我们去公园吧！"]),
        ("first clause, second clause", 15, ["first clause,", "second clause"]),
        ("one two three four", 9, ["one two", "three", "four"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("  \n ", 5, []),
    ],
)
def test_a_text_is_cut_where_it_hurts_least(text: str, most: int, parts: list[str]) -> None:
    assert split_text(text, most) == parts


@given(st.text(alphabet="aB é。.,!? \n\"'永", max_size=200), st.integers(min_value=4, max_value=60))
def test_parts_fit_and_hold_the_whole_text(text: str, most: int) -> None:
    parts = split_text(text, most)

    assert re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", text)
    assert all(part == part.strip() != "" for part in parts)
    # A few closing marks may hang over.
    assert all(len(part.rstrip(".,!?。\"' \n").encode()) <= most for part in parts)


@pytest.mark.parametrize("text", ["word " * 20_000, "A. " * 33_000, "x" * 100_000, "one, two. " * 10_000])
@pytest.mark.timeout(20)
def test_the_longest_texts_are_cut_quickly(text: str) -> None:
    assert max(len(part.encode()) for part in split_text(text)) <= PART_BYTES


def test_frames_are_capped_by_the_length_of_the_text() -> None:
    assert most_frames("a") == 27
    assert most_frames("永") == 31
    assert most_frames("x" * PART_BYTES) == 625
