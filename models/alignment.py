"""An alignment: where a recording says each word of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedWord:
    """A word of the text and where the recording says it.

    Attributes:
        text: Without white space.
        start_s: Not before the end of the word before it.
        score: As the alignment's `score_convention` says.
        aligned: False for what is not spoken, such as a lone dash: an empty span at its place.
        char_start: Where it stands in the text, which has white space between two words or nothing.
    """

    text: str
    start_s: float
    end_s: float
    score: float
    aligned: bool
    char_start: int
    char_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The words of a text in a recording, and how they were found.

    Attributes:
        granularity: What has a time of its own: `word`.
        frame_step_s: Between the times that the model can tell apart.
        score_convention: What the words' scores mean, in a sentence.
    """

    model: str
    granularity: str
    frame_step_s: float
    score_convention: str
    duration_s: float
    words: Sequence[AlignedWord]
