"""The files of an alignment: JSON for programs, a Praat TextGrid for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from praatio import textgrid

from .handler import OutputFile

_TIER = "words"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedWord:
    """A word of the text and where the recording says it.

    Attributes:
        score: As the alignment's `score_convention` says.
        aligned: False for what is not spoken, such as a lone dash: an empty span at its place.
    """

    text: str
    start_s: float
    end_s: float
    score: float
    aligned: bool


def write_json(path: Path, header: Mapping[str, Any], words: Sequence[AlignedWord]) -> OutputFile:
    """Write `header` with the words as `words`."""
    content = {**header, "words": [asdict(word) for word in words]}
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return OutputFile(name=path.name, path=path, media_type="application/json", role="alignment")


def write_textgrid(path: Path, words: Sequence[AlignedWord], duration_s: float) -> OutputFile:
    """Write one interval tier in Praat's long text format, with empty labels between the words.

    An interval cannot be empty: a word with an empty span is written behind the word before it (or before
    the first word), in the same label.
    """
    intervals: list[tuple[float, float, str]] = []
    waiting = ""
    for word in words:
        if word.end_s > word.start_s:
            intervals.append((word.start_s, word.end_s, waiting + word.text))
            waiting = ""
        elif intervals:
            start_s, end_s, label = intervals[-1]
            intervals[-1] = (start_s, end_s, f"{label} {word.text}")
        else:
            waiting += word.text + " "
    grid = textgrid.Textgrid(0, duration_s)
    grid.addTier(textgrid.IntervalTier(_TIER, intervals, 0, duration_s))
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
    return OutputFile(name=path.name, path=path, media_type="text/x-praat-textgrid", role="textgrid")
