from __future__ import annotations

import pytest

pytest.importorskip("uroman")

from hypothesis import given, settings
from hypothesis import strategies as st

from soundmill.models.aligner.romanization import LETTERS, romanize
from soundmill.models.words import split_words

from .golden import facts


def letters(word: str, language: str = "eng", *, numbers: bool = False) -> str:
    return "".join(piece[2] for piece in romanize([word], language, numbers)[0])


@pytest.mark.parametrize("case", facts()["romanize"], ids=lambda case: case["language"])
def test_words_get_the_letters_of_the_reference(case: dict[str, object]) -> None:
    words = [word.text for word in split_words(str(case["text"]))]
    found = [
        " ".join("".join(piece[2] for piece in word))
        for word in romanize(words, str(case["language"]), False)
    ]
    assert ["<star>", *found, "<star>"] == case["tokens"]


@pytest.mark.parametrize(
    ("word", "language", "expected"),
    [
        ("Straße", "deu", "strasse"),
        ("ﬁne", "eng", "fine"),
        ("𝐁𝐨𝐥𝐝", "eng", "bold"),
        ("e\u0301te\u0301", "fra", "ete"),
        ("שלום", "heb", "shlvm"),
        ("世界", "cmn", "shijie"),
        ("三百二十", "cmn", "sanbaiershi"),
        ("三百", "jpn", "sanhyaku"),
        ("きょう", "jpn", "kyou"),
        ("it’s", "eng", "it's"),
        ("‘quoted’", "eng", "quoted"),
        ("'tis", "eng", "tis"),
        ("ʻOhana", "haw", "'ohana"),
        ("😀", "eng", ""),
        ("½", "eng", ""),
        ("²", "eng", ""),
        ("—", "eng", ""),
        ("٢٠٢٤", "ara", ""),
    ],
)
def test_what_the_model_knows_is_heard(word: str, language: str, expected: str) -> None:
    assert letters(word, language) == expected


def test_pieces_are_the_characters_that_are_written_as_one() -> None:
    (word,) = romanize(["Gröẞe-3ﬁ!"], "deu", False)
    assert [("Gröẞe-3ﬁ!"[start:end], heard) for start, end, heard in word] == [
        ("G", "g"), ("r", "r"), ("ö", "oe"), ("ẞ", "ss"), ("e", "e"), ("-", ""), ("3", ""), ("ﬁ", "fi"), ("!", ""),
    ]  # fmt: skip
    (word,) = romanize(["きょう"], "jpn", False)
    assert [("きょう"[start:end], heard) for start, end, heard in word] == [("きょ", "kyo"), ("う", "u")]


@given(
    st.lists(st.text(st.characters(exclude_categories=("Z", "Cc", "Cs")), min_size=1, max_size=8), max_size=3)
)
@settings(deadline=None)
def test_pieces_cover_a_word_without_gaps_and_have_known_letters(words: list[str]) -> None:
    for word, pieces in zip(words, romanize(words, "eng", False), strict=True):
        edges = [edge for start, end, _ in pieces for edge in (start, end)]
        assert edges == sorted(edges)
        assert edges[:1] == [0]
        assert edges[-1:] == [len(word)]
        assert all(start < end for start, end, _ in pieces)
        assert edges[1:-1:2] == edges[2::2]
        assert all(set(heard) <= LETTERS for _, _, heard in pieces)


@given(st.text(st.sampled_from("abcxyzABC,.-!"), min_size=1, max_size=10))
@settings(deadline=None)
def test_plain_letters_are_what_uroman_would_make_of_them(word: str) -> None:
    from soundmill.models.aligner.uroman_tables import romanized

    by_uroman = "".join(text for _, _, text in romanized(word.lower(), "eng"))
    assert letters(word) == "".join(letter for letter in by_uroman if letter in LETTERS)


@pytest.mark.parametrize(
    ("word", "language", "expected"),
    [
        ("2024", "eng", "twothousandandtwentyfour"),
        ("3.14", "eng", "threepointonefour"),
        ("1,000,000", "eng", "onemillion"),
        ("1.000", "deu", "eintausend"),
        ("007", "eng", "zerozeroseven"),
        (
            "12345678901234567",
            "eng",
            "onetwothreefourfivesixseveneightnineonetwothreefourfivesixseven".replace(
                "nineone", "ninezeroone"
            ),
        ),
        ("mp3", "eng", "mpthree"),
        ("٢٠", "ara", letters("عشرون", "ara")),
        ("7", "rus", "sem"),
        ("7", "kaz", "jeti"),
    ],
)
def test_numbers_are_heard_as_words_if_that_is_wanted(word: str, language: str, expected: str) -> None:
    assert letters(word, language, numbers=True) == expected


def test_the_letters_of_a_number_belong_to_its_figures() -> None:
    assert romanize(["№20%"], "eng", True) == [[(0, 1, "no"), (1, 3, "twenty"), (3, 4, "")]]
