from __future__ import annotations

import pytest

pytest.importorskip("num2words")

from num2words import CONVERTER_CLASSES

from soundmill.models.aligner.numbers import LANGUAGES, spoken
from soundmill.storage.arguments.aligner import NUMBER_LANGUAGES, iso_639_3


def test_submit_knows_the_languages_in_which_numbers_are_spelled() -> None:
    assert set(LANGUAGES) == NUMBER_LANGUAGES


def test_each_language_of_the_library_is_offered_under_its_code() -> None:
    plain = {code for code in CONVERTER_CLASSES if "_" not in code}
    assert plain - {"am"} == set(LANGUAGES.values())
    for language, code in LANGUAGES.items():
        # Kazakh's code is kk; the library took that of Kazakhstan.
        assert code == "kz" or iso_639_3(code) == language or language == "nob"


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_every_language_says_numbers_of_every_kind(language: str) -> None:
    for figures in (
        "0",
        "7",
        "42",
        "1234",
        "2024",
        "3.5",
        "3,14",
        "0.007",
        "12.345678",
        "1000000",
        "999999999999999",
        "0099",
        "1,234,567",
    ):
        words = spoken(figures, language)
        assert words.strip()
        assert not any(letter.isdigit() for letter in words)
