from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.models.words import (
    Mark,
    Span,
    cut_pieces,
    speakable,
    split_sentences,
    split_words,
    time_words,
)

TEXT = st.text(min_size=1, max_size=200)


def texts(text: str) -> list[str]:
    return [word.text for word in split_words(text)]


def word_marks(*places: tuple[int, int]) -> list[Mark]:
    return [Mark(kind="word", char=char, sample=sample) for char, sample in places]


def spans(text: str, marks: list[Mark], total: int) -> list[tuple[int, int, bool]]:
    return [(span.start, span.end, span.spoken) for span in time_words(split_words(text), marks, total)]


def test_words_stand_between_white_space() -> None:
    assert texts(" a  b-c\n“d”! — é ") == ["a", "b-c", "“d”!", "—", "é"]


def test_chinese_characters_are_words_of_their_own_with_the_punctuation_behind_them() -> None:
    assert texts("你好，world世界。") == ["你", "好，", "world", "世", "界。"]


def test_small_kana_and_opening_brackets_stay_with_their_character() -> None:
    assert texts("「きょうカッコー」") == ["「きょ", "う", "カッ", "コー」"]


@given(TEXT)
def test_words_cover_all_that_is_not_white_space(text: str) -> None:
    words = split_words(text)
    assert all(text[word.char_start : word.char_end] == word.text for word in words)
    assert "".join(word.text for word in words) == "".join(text.split())
    assert len(words) >= len(text.split())


@given(TEXT)
def test_speakable_text_keeps_its_length_and_has_utf8(text: str) -> None:
    assert len(speakable(text)) == len(text)
    speakable(text + "\ud800\x01").encode()


def test_control_characters_become_spaces_but_line_ends_stay() -> None:
    assert speakable("a\x01b\x00\n\x9f\ud800") == "a b \n  "


@given(TEXT, st.integers(1, 50))
def test_pieces_join_to_the_text_and_keep_the_limit(text: str, limit: int) -> None:
    pieces = list(cut_pieces(text, limit))
    assert "".join(piece.text for piece in pieces) == text
    assert all(0 < len(piece.text) <= limit for piece in pieces)
    assert all(text[piece.char_start :].startswith(piece.text) for piece in pieces)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One two. Three four five", "One two."),
        ("One two, three four five", "One two,"),
        ("One two three four five", "One two three "),
        ("Onetwothreefourfive", "Onetwothreefour"),
        ("一二三。四五六七八九十一二三四五", "一二三。"),
        ("Pi is 3.14159 or so, roughly", "Pi is 3.14159 "),
    ],
)
def test_a_text_is_cut_at_its_best_place(text: str, first: str) -> None:
    assert next(iter(cut_pieces(text, 15))).text == first


def test_each_word_lasts_until_the_next_begins() -> None:
    assert spans("a bc d", word_marks((0, 0), (2, 10), (5, 30)), 40) == [
        (0, 10, True),
        (10, 30, True),
        (30, 40, True),
    ]


def test_a_word_ends_where_the_pause_behind_it_begins() -> None:
    marks = [
        Mark(kind="word", char=0, sample=0),
        Mark(kind="sound", char=0, sample=2),
        Mark(kind="pause", char=0, sample=4),
        Mark(kind="sound", char=0, sample=6),
        Mark(kind="pause", char=0, sample=8),
        Mark(kind="word", char=3, sample=20),
    ]
    assert spans("a, b", marks, 30) == [(0, 8, True), (20, 30, True)]


def test_words_without_a_mark_share_by_their_letters() -> None:
    assert spans("of the x", word_marks((0, 0), (7, 50)), 60) == [
        (0, 20, True),
        (20, 50, True),
        (50, 60, True),
    ]


def test_lone_punctuation_has_an_empty_span_in_its_place() -> None:
    assert spans("a — b …", word_marks((0, 0), (4, 50)), 60) == [
        (0, 50, True),
        (50, 50, False),
        (50, 60, True),
        (60, 60, False),
    ]


def test_a_symbol_that_is_said_is_spoken() -> None:
    assert spans("a & b", word_marks((0, 0), (2, 10), (4, 20)), 30)[1] == (10, 20, True)


def test_several_marks_in_a_word_and_marks_that_go_back_make_one_span() -> None:
    assert spans("1990 x", word_marks((0, 0), (2, 10), (5, 20), (1, 25)), 30) == [
        (0, 20, True),
        (20, 30, True),
    ]


def test_a_text_without_any_mark_is_not_spoken_or_shared_over_the_audio() -> None:
    assert spans("... !", [], 30) == [(0, 0, False), (0, 0, False)]
    assert spans("ab c", [], 30) == [(0, 20, True), (20, 30, True)]


@given(
    TEXT,
    st.lists(
        st.tuples(st.integers(0, 220), st.integers(0, 1000), st.sampled_from(["word", "sound", "pause"]))
    ),
)
def test_spans_never_overlap_nor_leave_the_audio(text: str, places: list[tuple[int, int, str]]) -> None:
    ordered = sorted(places, key=lambda place: place[1])
    marks = [Mark(kind=kind, char=char, sample=sample) for char, sample, kind in ordered]  # type: ignore[arg-type]
    words = split_words(text)
    found: tuple[Span, ...] = time_words(words, marks, 1000)
    assert len(found) == len(words)
    edges = [edge for span in found for edge in (span.start, span.end)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= 1000 for edge in edges)
    assert all(span.spoken == (span.end > span.start) for span in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! “Three?” Four", ["One.", "Two!", "“Three?”", "Four"]),
        ("no end", ["no end"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("A heading\n\nIts text, 3.5 long.", ["A heading", "Its text, 3.5 long."]),
        (" \n", []),
    ],
)
def test_sentences_end_behind_their_marks(text: str, expected: list[str]) -> None:
    assert [sentence.text for sentence in split_sentences(text)] == expected


@given(TEXT)
def test_sentences_hold_all_but_white_space_in_order(text: str) -> None:
    found = split_sentences(text)
    assert [text[part.char_start : part.char_end] for part in found] == [part.text for part in found]
    assert "".join("".join(part.text.split()) for part in found) == "".join(text.split())
