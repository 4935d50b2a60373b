"""How far an alignment is to be trusted: each minute's score, and the words that the recording hardly says.

Every word gets a place, said or not: a wrong transcript is seen by its scores only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ..alignment import AlignedWord, Doubt, Minute

MINUTE_S = 60.0


def mean_score(words: Sequence[AlignedWord]) -> float:
    """The mean of the scores of words that are aligned, at least one, weighted by their lengths."""
    total_s = sum(word.end_s - word.start_s for word in words)
    if total_s <= 0:
        return round(sum(word.score for word in words) / len(words), 4)
    return round(sum(word.score * (word.end_s - word.start_s) for word in words) / total_s, 4)


def minutes(words: Sequence[AlignedWord], duration_s: float, doubtful_below: float) -> list[Minute]:
    """Every minute of the recording, the last one shorter."""
    begun: dict[int, list[AlignedWord]] = {}
    for word in words:
        if word.aligned:
            begun.setdefault(int(word.start_s // MINUTE_S), []).append(word)
    count = max(1, -int(-duration_s // MINUTE_S))
    return [_minute(index, begun.get(index, []), duration_s, doubtful_below) for index in range(count)]


def _minute(index: int, words: list[AlignedWord], duration_s: float, doubtful_below: float) -> Minute:
    return Minute(
        start_s=index * MINUTE_S,
        end_s=min((index + 1) * MINUTE_S, duration_s),
        score=mean_score(words) if words else None,
        words=len(words),
        doubtful=sum(word.score < doubtful_below for word in words),
    )


def doubts(text: str, words: Sequence[AlignedWord], doubtful_below: float) -> list[Doubt]:
    """The longest runs of aligned words that score lower; words that are not aligned end no run."""
    aligned = (word for word in words if word.aligned)
    return [
        _doubt(text, list(run))
        for doubtful, run in groupby(aligned, key=lambda word: word.score < doubtful_below)
        if doubtful
    ]


def _doubt(text: str, run: Sequence[AlignedWord]) -> Doubt:
    first, last = run[0], run[-1]
    return Doubt(
        text=text[first.char_start : last.char_end],
        start_s=first.start_s,
        end_s=last.end_s,
        score=mean_score(run),
        char_start=first.char_start,
        char_end=last.char_end,
    )
