"""Words in Latin letters, and which characters each letter stands for. Runs in a helper process.

The model knows the letters a to z and the apostrophe. A word is brought into its plain form (NFKC, lower case),
written in Latin script by uroman, and cut down to these. Figures and what else has no letters is left without.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from . import numbers

Piece = tuple[int, int, str]
"""(first character, behind the last, the letters that are heard for them); pieces cover a word without a gap."""

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz'")

_QUOTES = frozenset("'’‘＇")
_LONGEST = 500
"""So many letters without white space are read together; what uroman takes grows with their square."""

_APOSTROPHES = str.maketrans("’‘ʻʼ", "''''")


def _readings(numerals: str, readings: str) -> dict[str, str]:
    return dict(zip(numerals.split(), readings.split(), strict=True))


# uroman writes these as figures, as it should; here they are words, and so they have to be heard.
_HAN_NUMERALS = {
    "cmn": _readings(
        "〇 零 一 二 三 四 五 六 七 八 九 十 百 千 万 萬 亿 億 两 兩",
        "ling ling yi er san si wu liu qi ba jiu shi bai qian wan wan yi yi liang liang",
    ),
    "jpn": _readings(
        "〇 零 一 二 三 四 五 六 七 八 九 十 百 千 万 億",
        "rei rei ichi ni san yon go roku nana hachi kyu ju hyaku sen man oku",
    ),
}
_HAN_NUMERALS |= {"zho": _HAN_NUMERALS["cmn"]}


def romanize(words: Sequence[str], language: str, spell_numbers: bool) -> list[list[Piece]]:
    """Write words in Latin letters.

    Args:
        words: Without white space.
        language: ISO 639-3.
        spell_numbers: Whether figures are heard as `numbers.spoken` says; else they have no letters.
    """
    known: dict[str, list[Piece]] = {}
    for word in words:
        if word not in known:
            pieces = list(_covering(_pieces(word, language, spell_numbers), len(word)))
            known[word] = _without_quotes(word, pieces)
    return [known[word] for word in words]


def _pieces(word: str, language: str, spell_numbers: bool) -> Iterator[Piece]:
    done = 0
    for match in numbers.NUMBER.finditer(word):
        yield from _written(word[done : match.start()], done, language)
        yield match.start(), match.end(), _said(match.group(), language) if spell_numbers else ""
        done = match.end()
    yield from _written(word[done:], done, language)


def _said(figures: str, language: str) -> str:
    parts = numbers.spoken(figures, language).split()
    return "".join(letters for part in parts for _, _, letters in _written(part, 0, language))


def _written(text: str, begin: int, language: str) -> Iterator[Piece]:
    """The pieces of a text without figures that begins at `begin`."""
    if text.isascii():
        yield from ((begin + at, begin + at + 1, _heard(letter)) for at, letter in enumerate(text))
        return
    plain, places = _plain(text, begin)
    numerals = _HAN_NUMERALS.get(language, {})
    done = 0
    for at, letter in enumerate(plain):
        if letter in numerals:
            yield from _by_uroman(plain[done:at], places[done:at], language)
            yield (*places[at], numerals[letter])
            done = at + 1
    yield from _by_uroman(plain[done:], places[done:], language)


def _plain(text: str, begin: int) -> tuple[str, list[tuple[int, int]]]:
    """The plain form, and for each of its characters the place of those that it stands for."""
    plain = ""
    places: list[tuple[int, int]] = []
    for start, end in _clusters(text):
        form = unicodedata.normalize("NFKC", text[start:end]).lower().translate(_APOSTROPHES)
        plain += form
        places += [(begin + start, begin + end)] * len(form)
    return plain, places


def _clusters(text: str) -> Iterator[tuple[int, int]]:
    """Each character with the marks that belong to it."""
    start = 0
    for at in range(1, len(text)):
        if not unicodedata.category(text[at]).startswith("M"):
            yield start, at
            start = at
    if text:
        yield start, len(text)


def _by_uroman(plain: str, places: Sequence[tuple[int, int]], language: str) -> Iterator[Piece]:
    if not plain:
        return
    from .uroman_tables import romanized  # seconds, in the process that needs it first

    for begin in range(0, len(plain), _LONGEST):
        for start, end, letters in romanized(plain[begin : begin + _LONGEST], language):
            if start < end:
                yield places[begin + start][0], places[begin + end - 1][1], _heard(letters)


def _heard(letters: str) -> str:
    return "".join(letter for letter in letters.lower() if letter in LETTERS)


def _covering(pieces: Iterable[Piece], length: int) -> Iterator[Piece]:
    """Join pieces of the same characters, and give characters that none stands for a piece without letters."""
    begin, end, letters = 0, 0, ""
    for start, stop, heard in pieces:
        if start >= end:
            if end > begin:
                yield begin, end, letters
            if start > end:
                yield end, start, ""
            begin, letters = start, ""
        end = max(end, stop)
        letters += heard
    if end > begin:
        yield begin, end, letters
    if end < length:
        yield end, length, ""


def _without_quotes(word: str, pieces: list[Piece]) -> list[Piece]:
    """Leave an apostrophe without a letter unless letters stand on both sides of it; quotes are not heard.

    Letters that merely look like it, such as the Hawaiian okina, stay.
    """
    sounding = [at for at, (_, _, letters) in enumerate(pieces) if letters.strip("'")]
    first, last = (sounding[0], sounding[-1]) if sounding else (len(pieces), -1)
    return [
        (
            start,
            end,
            "" if letters == "'" and word[start:end] in _QUOTES and not first < at < last else letters,
        )
        for at, (start, end, letters) in enumerate(pieces)
    ]
