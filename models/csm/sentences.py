"""Cutting a long text at the ends of sentences, and how long a text may take to say. No torch here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

PART_BYTES = 300
"""Of the UTF-8 of one part: about twenty seconds, far less than a model hears in training."""

_LEAST_FRAMES = 25  # two seconds, for the shortest text
_FRAMES_PER_BYTE = 2  # six letters a second, or two ideographs: slower than anybody reads aloud

_ENDS = ".!?…。！？"
_Way = Callable[[str], Iterator[int]]  # where a text may be cut
_CLOSING = "\"'”’»)]」』"
_FEW_MARKS = 8  # so many closing marks go with the part before them
_MARKS_BYTES = 4 * _FEW_MARKS  # by so much it may become longer than other parts
_NEAR = 12  # longer than any abbreviation below
# Runs as long as they get, and none is looked at twice: a text may be one run of 100,000 marks.
_RUN = re.compile(rf"[{re.escape(_ENDS)}]++[{re.escape(_CLOSING)}]*+|\n\s*+")
_WITHOUT_SPACE = re.compile(r".*[。！？」』]", re.DOTALL)  # what ends a sentence though a letter follows
_CLAUSE = re.compile(r"[,;:—–、，；：](?=\s|(?<=[、，；：]))")
_SPACE = re.compile(r"\s+")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|mr|mrs|ms|dr|prof|st|jr|sr|vs|no|fig|approx|e\.g|i\.e|a\.m|p\.m)\.$", re.IGNORECASE
)


def most_frames(text: str) -> int:
    """How many frames a text may take, so generously that only a run that lost its way takes more.

    Counted in bytes, because a letter of a script with many letters says more.
    """
    return _LEAST_FRAMES + _FRAMES_PER_BYTE * len(text.encode())


def split_text(text: str, most_bytes: int = PART_BYTES) -> list[str]:
    """Cut a text into parts that are not longer than `most_bytes` of UTF-8.

    Whole sentences as many as fit; of a sentence that does not fit whole clauses, then whole words, then
    letters. The parts have what the text has, in order, but for the white space around them.
    """
    return list(_filled(_pieces(text, most_bytes, [_sentence_ends, _clause_ends, _word_ends]), most_bytes))


def _pieces(text: str, most_bytes: int, ways: Sequence[_Way]) -> Iterator[str]:
    """The text in pieces that fit, cut by the first way that makes them fit; spaces stay at their ends."""
    if _fits(text, most_bytes):
        yield text
        return
    if not ways:
        yield from _letters(text, most_bytes)
        return
    begin = 0
    for end in [*ways[0](text), len(text)]:
        if end > begin:
            yield from _pieces(text[begin:end], most_bytes, ways[1:])
            begin = end


def _filled(pieces: Iterator[str], most_bytes: int) -> Iterator[str]:
    """Neighbours together, as long as they fit."""
    held = ""
    for piece in pieces:
        marks = len(piece) <= _FEW_MARKS and not any(letter.isalnum() for letter in piece)
        most = most_bytes + _MARKS_BYTES if marks else most_bytes
        if held.strip() and not _fits(held + piece, most):
            yield held.strip()
            held = ""
        held += piece
    if held.strip():
        yield held.strip()


def _sentence_ends(text: str) -> Iterator[int]:
    for end in _ends(text):
        begins = _past_spaces(text, end)
        if text[begins : begins + 1].islower() or _ABBREVIATION.search(text[max(0, end - _NEAR) : end]):
            continue
        yield begins


def _ends(text: str) -> Iterator[int]:
    """Behind each run of marks that white space follows, else behind the last one in it that needs none."""
    for run in _RUN.finditer(text):
        end = run.end()
        if text[run.start()] == "\n" or end == len(text) or text[end].isspace():
            yield end
        elif within := _WITHOUT_SPACE.match(text, run.start(), end):
            yield within.end()


def _clause_ends(text: str) -> Iterator[int]:
    return (_past_spaces(text, match.end()) for match in _CLAUSE.finditer(text))


def _word_ends(text: str) -> Iterator[int]:
    return (match.end() for match in _SPACE.finditer(text))


def _letters(text: str, most_bytes: int) -> Iterator[str]:
    held = ""
    for letter in text:
        if held and not _fits(held + letter, most_bytes):
            yield held
            held = ""
        held += letter
    yield held


def _past_spaces(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _fits(text: str, most_bytes: int) -> bool:
    return len(text.strip().encode()) <= most_bytes
