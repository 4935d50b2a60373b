"""Numbers as they are spoken: `2024` becomes `two thousand and twenty-four`.

Whether a text that has figures is read so, or as a year, a telephone number or an amount, is not in the text: so
this is done on request only.
"""

from __future__ import annotations

import re
from contextlib import suppress
from decimal import Decimal

LANGUAGES = {
    "ara": "ar", "aze": "az", "bel": "be", "ben": "bn", "cat": "ca", "ces": "cs", "che": "ce",
    "cym": "cy", "dan": "da", "deu": "de", "eng": "en", "epo": "eo", "fas": "fa", "fin": "fi", "fra": "fr",
    "heb": "he", "hun": "hu", "ind": "id", "isl": "is", "ita": "it", "jpn": "ja", "kan": "kn", "kaz": "kz",
    "kor": "ko", "lav": "lv", "lit": "lt", "nld": "nl", "nob": "no", "nor": "no", "pol": "pl", "por": "pt",
    "ron": "ro", "rus": "ru", "slk": "sk", "slv": "sl", "spa": "es", "srp": "sr", "swe": "sv", "tel": "te",
    "tet": "tet", "tgk": "tg", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip
"""ISO 639-3 to the library's own codes, of which `kz` is Kazakh. In Amharic it never ends with some millions."""

NUMBER = re.compile(r"\d+(?:[.,]\d{3})+(?!\d)|\d+[.,]\d+|\d+")
"""Whole numbers, decimal ones, and those with three digits behind each mark, which are read as whole ones."""

_MOST_DIGITS = 15  # beyond it nobody reads a number as one


def spoken(figures: str, language: str) -> str:
    """What is said for a match of `NUMBER`.

    Args:
        language: One of `LANGUAGES`.
    """
    from num2words import num2words

    code = LANGUAGES[language]
    digits = "".join(str(int(digit)) if digit.isdigit() else digit for digit in figures)
    if re.fullmatch(r"\d+(?:[.,]\d{3})+", digits) and not digits.startswith("0"):
        digits = re.sub(r"[.,]", "", digits)
    whole, _, decimals = digits.replace(",", ".").partition(".")
    if len(whole) > _MOST_DIGITS or (len(whole) > 1 and whole.startswith("0")):
        return " ".join(num2words(int(digit), lang=code) for digit in whole + decimals)
    number = Decimal(f"{whole}.{decimals}") if decimals else int(whole)
    # Some languages know no decimals, or not all of them: then the figures are read one by one.
    with suppress(ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError):
        if words := str(num2words(number, lang=code)).strip():
            return words
    return " ".join(num2words(int(digit), lang=code) for digit in whole + decimals)
