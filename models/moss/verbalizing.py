"""Numbers, dates and units in words, for Chinese and English, by WeTextProcessing where it is installed."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

from ..errors import ModelUnavailable

Spoken = Literal["zh", "en"]

_HAN = re.compile("[\u3400-\u9fff]")
_LATIN = re.compile("[A-Za-z]")
_ENGLISH_VOICES = frozenset({"Trump", "Ava", "Bella", "Adam", "Nathan"})
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_SPACED_HYPHEN = re.compile(r"(?<=\w)\s*-\s*(?=\w)")
_SIGN = rf"(?:^|(?<=[=:+*/,(，：:；;（【\[{{{_CJK}0-9]))-(?=[0-9])"
_HYPHENS = re.compile(rf"(?P<sign>{_SIGN})|(?P<between>(?<=[{_CJK}])-(?=[{_CJK}]))|(?P<inner>(?<=\w)-(?=\w))")


def language_of(text: str, voice: str = "") -> Spoken:
    """The language by which the published runtime verbalizes a text: Chinese unless it looks English."""
    if _HAN.search(text):
        return "zh"
    return "en" if _LATIN.search(text) or voice in _ENGLISH_VOICES else "zh"


def spoken_language(text: str, language: str | None) -> Spoken | None:
    """The language to verbalize by; `None` for text that is neither Chinese nor English.

    The published runtime reads Spanish numbers in English and Cyrillic as Chinese. Here a language that the
    submitter names decides, and without one only letters that leave no doubt.
    """
    if language is not None:
        return {"zh": "zh", "en": "en"}.get(language)  # type: ignore[return-value]
    if re.search("[\u3040-\u30ff]", text):
        return None
    if _HAN.search(text):
        return "zh"
    letters = [c for c in text if c.isalpha()]
    return "en" if letters and all(c.isascii() for c in letters) else None


def guard_hyphens(text: str) -> str:
    """Keep Chinese rules from reading a hyphen between words as a minus.

    Signs and hyphens between digits stay; between Chinese words it becomes a comma, elsewhere a space.
    """

    def guarded(match: re.Match[str]) -> str:
        if match["sign"] is not None:
            return "-"
        return "，" if match["between"] is not None else " "

    return _HYPHENS.sub(guarded, _SPACED_HYPHEN.sub("-", text))


def installed() -> bool:
    """Whether WeTextProcessing is there."""
    from importlib.util import find_spec

    return find_spec("tn") is not None


def verbalize(text: str, language: Spoken) -> str:
    """Write numbers, dates, money and units out.

    Raises:
        ModelUnavailable: WeTextProcessing is not installed.
    """
    normalizer = _normalizer(language)
    return str(normalizer.normalize(guard_hyphens(text) if language == "zh" else text))


@lru_cache(maxsize=2)
def _normalizer(language: Spoken) -> Any:
    try:
        if language == "zh":
            from tn.chinese.normalizer import Normalizer

            return Normalizer(remove_interjections=False, remove_erhua=False, full_to_half=False)
        from tn.english.normalizer import Normalizer as EnglishNormalizer

        return EnglishNormalizer()
    except ImportError as error:
        raise ModelUnavailable(
            "WeTextProcessing is missing on this worker; install it, or submit with verbalize=off"
        ) from error
