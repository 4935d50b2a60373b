"""What is refused of an alignment already at submit."""

from __future__ import annotations

from typing import Any

import pytest

from soundmill.storage.catalog import load_catalog
from soundmill.storage.errors import SubmitRefused

MODEL = load_catalog().get("mms-300m-aligner")
GIVEN = {"text": "hello", "audio": {"artifact": "a" * 64}}


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("eng", "eng"),
        ("en", "eng"),
        ("en-us", "eng"),
        ("EN_GB", "eng"),
        ("chi", "zho"),
        ("cmn", "cmn"),
        ("de", "deu"),
    ],
)
def test_languages_are_kept_as_iso_639_3(code: str, language: str) -> None:
    assert MODEL.parse({**GIVEN, "language": code}).model_dump()["language"] == language


@pytest.mark.parametrize("code", ["xxx", "e", "", "englisch", "mul", "und", "qaa", "klingon", "--"])
def test_what_is_no_language_is_refused(code: str) -> None:
    with pytest.raises(
        SubmitRefused, match=r"language: there is no language .* such as eng, deu or cmn"
    ) as caught:
        MODEL.parse({**GIVEN, "language": code})
    assert caught.value.field == "language"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"text": " \n"}, "text: the text is empty"),
        ({"text": "a" * 1_000_001}, "text: String should have at most 1000000 characters"),
        ({"split": "phoneme"}, "split: Input should be 'word', 'character' or 'sentence'"),
        ({"star": "all"}, "star: Input should be 'none', 'edges' or 'units'"),
        ({"min_score": 0.5}, "min_score: Input should be less than or equal to 0"),
        ({"outputs": []}, "outputs: Tuple should have at least 1 item"),
        ({"outputs": ["pdf"]}, "outputs.0: Input should be 'json'"),
        ({"numbers": "spell", "language": "cmn"}, "numbers cannot be spelled out in 'cmn'"),
        ({"audio": "a.wav"}, "audio: this names no audio"),
    ],
)
def test_wrong_arguments_are_refused_with_a_sentence(args: dict[str, Any], words: str) -> None:
    with pytest.raises(SubmitRefused) as caught:
        MODEL.parse({**GIVEN, **args})
    assert words in str(caught.value)


def test_numbers_can_be_spelled_in_english() -> None:
    assert MODEL.parse({**GIVEN, "numbers": "spell"}).model_dump()["numbers"] == "spell"
