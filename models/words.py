"""The words of a text: where they stand, how the text is cut for speaking, and when each is heard.

A *word* is what stands between white space. Chinese and Japanese put none between words: there each
character (with the small kana, marks and punctuation that follow it) is a word. Thai, Lao, Khmer and
Burmese write phrases without spaces; there the phrase is the word.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

# Han, and the full-size kana; what is small or lengthens the vowel before it stays with that character.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_SMALL_KANA = "ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶ"
_KANA = f"(?![{_SMALL_KANA}])[\u3041-\u3096\u30a1-\u30fa]"
_OPENING = "「『（《〈【〔｛［“‘(\\[{<"
_OPENED = f"[{_OPENING}]{{0,8}}"  # bounded, or a text of brackets alone would take quadratic time
# A character with what belongs to it, or all that stands before the next such character.
_UNIT = re.compile(
    rf"{_OPENED}(?:[{_HAN}]|{_KANA})[{_SMALL_KANA}ー]*[^\w{_OPENING}]*"
    rf"|(?:(?!{_OPENED}(?:[{_HAN}]|{_KANA})).)+"
)

# A run of marks is looked at once, from its first and whole: a text may be a million of them.
_SENTENCE_END = re.compile(r"(?<![.!?…。！？؟۔।])[.!?…。！？؟۔।]++[\"'”’»」』)\]]*+(?=\s)|[。！？]|\n\s*\n")
_CLAUSE_END = re.compile(r"[,;:，、；：،؛—–](?=\s)|[，、；：]")
_SPACE = re.compile(r"\s+")

MarkKind = Literal["word", "sound", "pause"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word and its place: `text == whole[char_start:char_end]`."""

    text: str
    char_start: int
    char_end: int

    @property
    def weight(self) -> int:
        """How many letters and digits it has: 0 for pure punctuation."""
        return sum(character.isalnum() for character in self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that begins at `sample`: a word of the text, a phoneme's sound, or a pause.

    Attributes:
        char: Of a word, the index of its first character; else of the word around it, roughly.
    """

    kind: MarkKind
    char: int
    sample: int

    def later(self, samples: int) -> Mark:
        """The same mark in audio that began `samples` before."""
        return replace(self, sample=self.sample + samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When a word is heard, in samples [start, end); empty where it is not `spoken`."""

    start: int
    end: int
    spoken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of the text that is spoken in one go."""

    text: str
    char_start: int
    last: bool


def split_words(text: str) -> tuple[Word, ...]:
    """Cut a text into its words; between them there is nothing but white space."""
    return tuple(word for token in re.finditer(r"\S+", text) for word in _units(token.group(), token.start()))


def split_sentences(text: str) -> tuple[Word, ...]:
    """Cut a text into its sentences, without the white space around them.

    A sentence ends behind its mark, or at an empty line. Abbreviations end like sentences.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    sentences: list[Word] = []
    for start, end in pairwise([0, *ends, len(text)]):
        stripped = text[start:end].strip()
        if stripped:
            begin = text.index(stripped, start)
            sentences.append(Word(text=stripped, char_start=begin, char_end=begin + len(stripped)))
    return tuple(sentences)


def _units(token: str, offset: int) -> Iterator[Word]:
    for unit in _UNIT.finditer(token):
        yield Word(text=unit.group(), char_start=offset + unit.start(), char_end=offset + unit.end())


def speakable(text: str) -> str:
    """The same text, character for character, without what no voice should interpret.

    Control characters become spaces (eSpeak reads commands after U+0001), and so do lone surrogates,
    which have no UTF-8.
    """
    return "".join(" " if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return character not in "\t\n\r" and unicodedata.category(character) in ("Cc", "Cs")


def cut_pieces(text: str, max_chars: int) -> Iterator[Piece]:
    """Cut a text into pieces of at most `max_chars` that join to the text again.

    A cut falls behind the last sentence that fits, else behind the last clause, else the last white
    space, else in the middle of an endless word.
    """
    start = 0
    while len(text) - start > max_chars:
        end = start + _cut(text[start : start + max_chars + 1], max_chars)
        yield Piece(text=text[start:end], char_start=start, last=False)
        start = end
    yield Piece(text=text[start:], char_start=start, last=True)


def _cut(window: str, max_chars: int) -> int:
    for pattern in (_SENTENCE_END, _CLAUSE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(window) if match.end() <= max_chars]
        if ends:
            return ends[-1]
    return max_chars


def time_words(words: Sequence[Word], marks: Sequence[Mark], total: int) -> tuple[Span, ...]:
    """Say when each word is heard, given what the voice reported while speaking.

    Several marks in one word ("10" is said as one word, "1990" as two) make one span. Words without
    a mark of their own ("of the" may be said as one) share the span of the word before them, by letters.
    Punctuation without a mark gets an empty span where it stands.

    Args:
        marks: In the order of their samples.
        total: The length of the audio.

    Returns:
        One span a word, in order, without overlap, within [0, total].
    """
    edges = _word_starts(words, marks)
    marked = {index for index, _ in edges}
    if 0 not in marked:
        edges.insert(0, (0, 0))
    edges.append((len(words), total))
    spans: list[Span] = []
    for (first, start), (following, limit) in pairwise(edges):
        end = _sound_end(marks, start, limit)
        spans += _share(words[first:following], start, end, first in marked)
    return tuple(spans)


def _word_starts(words: Sequence[Word], marks: Sequence[Mark]) -> list[tuple[int, int]]:
    """(index, sample) of the words that have marks: both strictly rising."""
    ends = [word.char_end for word in words]
    starts: list[tuple[int, int]] = []
    for mark in marks:
        if mark.kind != "word":
            continue
        # A mark in the white space before a word means that word.
        index = bisect_right(ends, mark.char)
        if index < len(words) and (not starts or (index > starts[-1][0] and mark.sample > starts[-1][1])):
            starts.append((index, mark.sample))
    return starts


def _sound_end(marks: Sequence[Mark], start: int, limit: int) -> int:
    """Where the last pause before `limit` begins: a word ends with its sound."""
    first = bisect_right(marks, start, key=lambda mark: mark.sample - 1)
    end = limit
    for mark in marks[first:]:
        if mark.sample >= limit:
            break
        if mark.kind == "pause":
            end = min(end, mark.sample)
        elif mark.kind == "sound":
            end = limit
    return max(end, start)


def _share(words: Sequence[Word], start: int, end: int, marked: bool) -> Iterator[Span]:
    """Divide [start, end) among words by their letters; `marked` says that the first surely sounds."""
    weights = [word.weight for word in words]
    if marked:
        weights[0] = max(1, weights[0])
    total = sum(weights)
    done = 0
    for weight in weights:
        span_start = start + (end - start) * done // total if total else start
        done += weight
        span_end = start + (end - start) * done // total if total else start
        yield Span(start=span_start, end=span_end, spoken=span_end > span_start)
