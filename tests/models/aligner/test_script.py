from __future__ import annotations

import pytest

pytest.importorskip("uroman")

from soundmill.models.aligner.script import STAR, Parts, Script, Wording, write_script
from soundmill.models.alignment import Granularity

LETTERS = {letter: index + 4 for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz'")} | {STAR: 31}


def script(text: str, star: str = "none", split: Granularity = "word", language: str = "eng") -> Script:
    wording = Wording(language=language, split=split, star=star, spell_numbers=False)  # type: ignore[arg-type]
    return write_script(text, wording, LETTERS)


def shown(text: str, parts: Parts, found: Script) -> list[tuple[str, str]]:
    """Each part of the text, and its letters."""
    return [
        (text[start:end], found.letters[first:beyond])
        for start, end, first, beyond in zip(
            parts.char_start, parts.char_end, parts.first, parts.end, strict=True
        )
    ]


TEXT = "Hi — it's 2024.\nNa und? Eh"


def test_words_characters_and_sentences_have_their_letters() -> None:
    found = script(TEXT)
    assert found.letters == "hiit'snaundeh"
    assert found.labels.tolist() == [LETTERS[letter] for letter in found.letters]
    assert shown(TEXT, found.words, found) == [
        ("Hi", "hi"), ("—", ""), ("it's", "it's"), ("2024.", ""), ("Na", "na"), ("und?", "und"), ("Eh", "eh"),
    ]  # fmt: skip
    assert shown(TEXT, found.sentences, found) == [
        ("Hi — it's 2024.", "hiit's"), ("Na und?", "naund"), ("Eh", "eh"),
    ]  # fmt: skip
    characters = shown(TEXT, found.characters, found)
    assert "".join(text for text, _ in characters) == "".join(TEXT.split())
    assert ("2024", "") in characters
    assert ("E", "e") in characters


@pytest.mark.parametrize(
    ("star", "split", "letters"),
    [
        ("none", "word", "hiit'snaundeh"),
        ("edges", "word", "*hiit'snaundeh*"),
        ("units", "word", "*hi*it's*na*und*eh"),  # one star takes the place of what has no letters, too
        ("units", "sentence", "*hiit's*naund*eh"),
        ("units", "character", "*h*i*i*t*'*s*n*a*u*n*d*e*h"),
    ],
)
def test_stars_stand_where_they_are_wanted(star: str, split: Granularity, letters: str) -> None:
    assert script(TEXT, star, split).letters == letters


def test_a_star_is_no_part_of_the_word_behind_it() -> None:
    found = script("a b", "units", "character")
    assert shown("a b", found.words, found) == [("a", "a"), ("b", "b")]


def test_letters_that_a_model_does_not_have_are_passed_over() -> None:
    few = {letter: number for letter, number in LETTERS.items() if letter not in "xyz'"}
    wording = Wording(language="eng", split="word", star="none", spell_numbers=False)
    found = write_script("xylophone's zzz", wording, few)
    assert found.letters == "lophones"
    assert (found.words.end - found.words.first).tolist() == [8, 0]


def test_chinese_characters_are_words() -> None:
    found = script("你好，世界。再见！", language="cmn")
    assert shown("你好，世界。再见！", found.words, found) == [
        ("你", "ni"), ("好，", "hao"), ("世", "shi"), ("界。", "jie"), ("再", "zai"), ("见！", "jian"),
    ]  # fmt: skip
    assert len(found.sentences.first) == 2


@pytest.mark.parametrize("text", ["", " ", "…", "2024 — 3!"])
def test_a_text_without_letters_has_no_labels(text: str) -> None:
    assert script(text).labels.tolist() == []
    assert script(text, "edges").letters == "*"
