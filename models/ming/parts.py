"""Long texts: split at the ends of sentences into parts that the model makes one by one, and joined again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ..audio import seconds_to_samples

Samples = npt.NDArray[np.float32]

FADE_S = 0.005

_IDEOGRAPH_S = 0.22
_SYLLABLE_S = 0.17  # of kana or hangul
_LETTER_S = 0.065
_MARK_S = 0.15

# A full stop counts before white space only: not in 3.5.
_SENTENCE_END = re.compile(r"(?:[。！？!?；;…\n]+|\.+(?=\s|$))[”’」』）)\"']*\s*")
_CLAUSE_END = re.compile(r"[，,、：:]+\s*")
_WORD = re.compile(r"\S+\s*")


def spoken_s(text: str) -> float:
    """About how long a text takes to say, in seconds."""
    return sum(map(_letter_s, text))


def split_text(text: str, limit_s: float) -> list[str]:
    """Parts that take at most `limit_s` to say, as few as that allows, each ending where a sentence does.

    A sentence that is longer is split at its clauses, a clause at its words, a word anywhere. Nothing but
    white space at the joints gets lost.
    """
    return [part for part in (part.strip() for part in _packed(_pieces(text, limit_s), limit_s)) if part]


def _letter_s(letter: str) -> float:
    if letter.isspace():
        return 0.0
    if unicodedata.category(letter).startswith("P"):
        return _MARK_S
    if "一" <= letter <= "鿿" or "㐀" <= letter <= "䶿":
        return _IDEOGRAPH_S
    if "぀" <= letter <= "ヿ" or "가" <= letter <= "힣":
        return _SYLLABLE_S
    return _LETTER_S


def _pieces(text: str, limit_s: float) -> Iterable[str]:
    for sentence in _after(_SENTENCE_END, text):
        if spoken_s(sentence) <= limit_s:
            yield sentence
            continue
        for clause in _packed(_after(_CLAUSE_END, sentence), limit_s):
            if spoken_s(clause) <= limit_s:
                yield clause
                continue
            words = (_cut(word, limit_s) for word in _WORD.findall(clause))
            yield from _packed((piece for word in words for piece in word), limit_s)


def _after(end: re.Pattern[str], text: str) -> Iterable[str]:
    """The pieces of a text, each with its end."""
    begun = 0
    for found in end.finditer(text):
        yield text[begun : found.end()]
        begun = found.end()
    yield text[begun:]


def _packed(pieces: Iterable[str], limit_s: float) -> Iterable[str]:
    part, part_s = "", 0.0
    for piece in pieces:
        piece_s = spoken_s(piece)
        if part and part_s + piece_s > limit_s:
            yield part
            part, part_s = "", 0.0
        part, part_s = part + piece, part_s + piece_s
    if part:
        yield part


def _cut(word: str, limit_s: float) -> Iterable[str]:
    return _packed(word, limit_s) if spoken_s(word) > limit_s else (word,)


def join(
    parts: Sequence[Samples], *, pause_s: float, sample_rate: int
) -> tuple[Samples, list[tuple[int, int]]]:
    """Put parts one behind the other, with silence between them and short fades at the joints.

    Returns:
        The whole [S], and where each part lies in it.
    """
    fade = np.linspace(0, 1, seconds_to_samples(FADE_S, sample_rate), endpoint=False, dtype=np.float32)
    silence = np.zeros(seconds_to_samples(pause_s, sample_rate), np.float32)
    pieces: list[Samples] = []
    spans = []
    done = 0
    for number, part in enumerate(parts):
        if number:
            pieces.append(silence)
            done += len(silence)
        pieces.append(_faded(part, fade, first=number == 0, last=number == len(parts) - 1))
        spans.append((done, done + len(part)))
        done += len(part)
    return np.concatenate(pieces), spans


def _faded(part: Samples, fade: Samples, *, first: bool, last: bool) -> Samples:
    part = part.copy()
    length = min(len(fade), len(part))
    if not first:
        part[:length] *= fade[:length]
    if not last:
        part[len(part) - length :] *= fade[:length][::-1]
    return part
