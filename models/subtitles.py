"""Subtitles of aligned words: which words make a cue, where its lines break, and the files, SRT and WebVTT.

Cues are cut where their costs add up to least: between sentences, else between clauses or at a pause, in parts
of about the same size, and not so small that they flash by. A cue never has more than `MAX_LINES` lines of
`MAX_COLUMNS`, and never stands for more than `LONGEST_S`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

from .alignment import AlignedWord, Alignment

MAX_COLUMNS = 42  # a wide character, such as Chinese, takes two
MAX_LINES = 2
LONGEST_S = 7.0
SHORTEST_S = 1.0
LONGEST_PAUSE_S = 1.5  # within a cue

_CLOSING = "\"'”’»」』）)\\]"
_SENTENCE_END = re.compile(rf"[.!?…。！？؟۔।][{_CLOSING}]*$")
_CLAUSE_END = re.compile(rf"[,;:–—，、；：،؛][{_CLOSING}]*$")
_CLAUSE_PAUSE_S = 0.3

# What a cue costs (more, up to twice as much, the emptier it is), and what in and behind it is against good form.
# A sentence that lasts is left alone; one that would flash by (`Mr.` ends like one) joins the next.
_CUE = 1.0
_CLAUSE_CUT, _PHRASE_CUT = 0.5, 2.0
_INNER_SENTENCE = 2.5
_TOO_SHORT = 2.0
_CLAUSE_IS_WORTH_COLUMNS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Sung:
    """A word of a line, or a piece of one, with the space before it, and when it is said."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A subtitle, from when to when it stands, and what its lines are made of."""

    start_s: float
    end_s: float
    parts: tuple[tuple[Sung, ...], ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """Its lines."""
        return tuple("".join(part.text for part in line) for line in self.parts)


def cues(alignment: Alignment) -> list[Cue]:
    """Make subtitles, in order and without overlap.

    A cue stands while its words are said, or longer if it would flash by. Where too many marks in a row are
    not spoken to fit beside a word, some are left out.
    """
    parts = [part for word in alignment.words for part in _parts(word)]
    layout = _Layout(parts)
    spoken = [(start, end) for start, end in layout.cut() if any(part.spoken for part in parts[start:end])]
    times = [_time(parts[start:end]) for start, end in spoken]
    limits = [*(start_s for start_s, _ in times[1:]), alignment.duration_s]
    return [
        Cue(
            start_s=start_s,
            end_s=min(max(end_s, min(start_s + SHORTEST_S, limit_s)), start_s + LONGEST_S),
            parts=layout.lines(start, end),
        )
        for (start, end), (start_s, end_s), limit_s in zip(spoken, times, limits, strict=False)
    ]


def as_srt(alignment: Alignment) -> str:
    """SubRip. It knows no escapes, and `-->` would be read as a time: an arrow stands for it."""
    blocks = (
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_text(cue).replace('-->', '→')}\n"
        for number, cue in enumerate(cues(alignment), 1)
    )
    return "\n".join(blocks)


def as_vtt(alignment: Alignment) -> str:
    """WebVTT. `&`, `<` and `>` are escaped, and with them `-->`."""
    blocks = (
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{escape(_text(cue), quote=False)}\n"
        for cue in cues(alignment)
    )
    return "\n".join(["WEBVTT\n", *blocks])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A word, or a piece of a word that is wider than a line.

    Attributes:
        char_start: Where it stands in the text.
    """

    text: str
    start_s: float
    end_s: float
    char_start: int

    @property
    def char_end(self) -> int:
        return self.char_start + len(self.text)

    @property
    def spoken(self) -> bool:
        return self.end_s > self.start_s


class _Layout:
    """Where parts can be divided into cues, and cues into lines; parts go by [start, end).

    Attributes:
        spaces: What stands between each part and the one before it.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.parts = parts
        before = [parts[0].char_start, *(part.char_end for part in parts)] if parts else []
        self.spaces = [" " * (part.char_start > end) for part, end in zip(parts, before, strict=False)]
        # Columns from the beginning of the text to the first and behind the last column of each part.
        self._firsts, self._lasts = [], []
        columns = 0
        for part, space in zip(parts, self.spaces, strict=True):
            self._firsts.append(columns + len(space))
            columns += len(space) + _columns(part.text)
            self._lasts.append(columns)
        self._sentences = [0, *accumulate(bool(_SENTENCE_END.search(part.text)) for part in parts)]

    def cut(self) -> list[tuple[int, int]]:
        """Divide all parts into cues, at the least cost."""
        costs, begins = [0.0], [0]
        for end in range(1, len(self.parts) + 1):
            offers = [(costs[start] + self._cost(start, end), start) for start in self._starts(end)]
            cost, start = min(offers)
            costs.append(cost)
            begins.append(start)
        found: list[tuple[int, int]] = []
        end = len(self.parts)
        while end:
            found.append((begins[end], end))
            end = begins[end]
        return found[::-1]

    def lines(self, start: int, end: int) -> tuple[tuple[Sung, ...], ...]:
        """Divide a cue: behind a clause if it can be done well, else in the middle."""
        if self._width(start, end) <= MAX_COLUMNS:
            return (self._line(start, end),)
        fitting = (
            middle
            for middle in range(start + 1, end)
            if max(self._width(start, middle), self._width(middle, end)) <= MAX_COLUMNS
        )
        middle = min(fitting, key=lambda middle: self._unevenness(start, middle, end))
        return self._line(start, middle), self._line(middle, end)

    def _starts(self, end: int) -> Iterator[int]:
        """The parts at which a cue may start that ends before `end`, from the shortest cue on."""
        yield end - 1
        for start in range(end - 2, -1, -1):
            if self._pause_s(start + 1) > LONGEST_PAUSE_S or not self._fits(start, end):
                return
            yield start

    def _fits(self, start: int, end: int) -> bool:
        if self.parts[end - 1].end_s - self.parts[start].start_s > LONGEST_S:
            return False
        middle = bisect_right(self._lasts, self._firsts[start] + MAX_COLUMNS, start, end)
        return middle == end or self._width(middle, end) <= MAX_COLUMNS

    def _cost(self, start: int, end: int) -> float:
        width = self._width(start, end) / (MAX_LINES * MAX_COLUMNS)
        start_s, end_s = _time(self.parts[start:end])
        cost = _CUE + (1 - width) ** 2 + self._cut_cost(end)
        cost += _INNER_SENTENCE * (self._sentences[end - 1] - self._sentences[start])
        return cost + _TOO_SHORT * (end_s - start_s < SHORTEST_S)

    def _cut_cost(self, end: int) -> float:
        last = self.parts[end - 1].text
        if end == len(self.parts) or _SENTENCE_END.search(last) or self._pause_s(end) > LONGEST_PAUSE_S:
            return 0.0
        return (
            _CLAUSE_CUT if _CLAUSE_END.search(last) or self._pause_s(end) > _CLAUSE_PAUSE_S else _PHRASE_CUT
        )

    def _pause_s(self, index: int) -> float:
        """The pause before a part that is not the first."""
        return self.parts[index].start_s - self.parts[index - 1].end_s

    def _unevenness(self, start: int, middle: int, end: int) -> float:
        columns = abs(self._width(start, middle) - self._width(middle, end))
        return columns - _CLAUSE_IS_WORTH_COLUMNS * bool(_CLAUSE_END.search(self.parts[middle - 1].text))

    def _width(self, start: int, end: int) -> int:
        return self._lasts[end - 1] - self._firsts[start]

    def _line(self, start: int, end: int) -> tuple[Sung, ...]:
        spaces = ("", *self.spaces[start + 1 : end])
        return tuple(
            Sung(text=space + part.text, start_s=part.start_s, end_s=part.end_s)
            for space, part in zip(spaces, self.parts[start:end], strict=True)
        )


def _parts(word: AlignedWord) -> Iterator[_Part]:
    """The word, or if it is wider than a line (phrases of Thai are words here) its pieces, by columns."""
    *texts, last = _chunks(word.text)
    total = max(1, _columns(word.text))
    start_s, char = word.start_s, word.char_start
    for text in texts:
        end_s = start_s + (word.end_s - word.start_s) * _columns(text) / total
        yield _Part(text=text, start_s=start_s, end_s=end_s, char_start=char)
        start_s, char = end_s, char + len(text)
    yield _Part(text=last, start_s=start_s, end_s=word.end_s, char_start=char)


def _chunks(text: str) -> Iterator[str]:
    start, columns = 0, 0
    for index, character in enumerate(text):
        width = _columns(character)
        if columns + width > MAX_COLUMNS:
            yield text[start:index]
            start, columns = index, 0
        columns += width
    yield text[start:]


def _columns(text: str) -> int:
    return sum(map(_width_of, text))


def _width_of(character: str) -> int:
    if unicodedata.category(character) in (
        "Mn",
        "Me",
        "Cf",
    ):  # drawn over the character before it, or not at all
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _time(parts: Sequence[_Part]) -> tuple[float, float]:
    """From the first to the last word that is spoken; an empty span if none is."""
    spoken = [part for part in parts if part.spoken] or parts
    return spoken[0].start_s, spoken[-1].end_s


def _text(cue: Cue) -> str:
    return "\n".join(cue.lines)


def _clock(seconds: float, point: str) -> str:
    minutes, ms = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{point}{ms % 1000:03}"
