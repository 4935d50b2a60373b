"""An alignment: where a recording says each part of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Granularity = Literal["word", "character", "sentence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedWord:
    """A word, character or sentence of the text, and where the recording says it.

    Attributes:
        text: A word has no white space; characters that are written as one sound stand together.
        start_s: Not before the end of the one before it.
        score: As the alignment's `score_convention` says; 0 if it is not aligned.
        aligned: False for what is not spoken, such as a lone dash, or cannot be looked for, such as a number: an
            empty span at its place.
        char_start: Where it stands in the text, which has white space between two words or nothing.
        romanized: The letters that were looked for, where a model knows Latin ones only.
    """

    text: str
    start_s: float
    end_s: float
    score: float
    aligned: bool
    char_start: int
    char_end: int
    romanized: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """How well the text fits a minute of the recording.

    Attributes:
        score: The mean of the words that begin in it, weighted by their lengths; `None` if there are none.
        words: How many are aligned in it.
        doubtful: How many of them score too low.
    """

    start_s: float
    end_s: float
    score: float | None
    words: int
    doubtful: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Neighbouring words that the recording hardly says: the text, or the recording there, is to be looked at.

    Attributes:
        score: Their mean, weighted by their lengths.
    """

    text: str
    start_s: float
    end_s: float
    score: float
    char_start: int
    char_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The words of a text in a recording, and how they were found.

    Attributes:
        granularity: What the model was asked for; `units` has it.
        frame_step_s: Between the times that the model can tell apart.
        score_convention: What the scores mean, in a sentence.
        words: All of the text; characters of their own where `granularity` is `character`.
        log_scores: Whether scores are natural logarithms of probabilities.
        language: ISO 639-3, or the model's own code.
        licence: Of the model's weights.
        segments: The sentences.
        characters: All of the text but white space.
        doubtful: `None` if the model cannot tell.
    """

    model: str
    granularity: Granularity
    frame_step_s: float
    score_convention: str
    duration_s: float
    words: Sequence[AlignedWord]
    log_scores: bool = False
    language: str | None = None
    licence: str | None = None
    segments: Sequence[AlignedWord] = ()
    characters: Sequence[AlignedWord] = ()
    minutes: Sequence[Minute] = ()
    doubtful: Sequence[Doubt] | None = None

    @property
    def units(self) -> Sequence[AlignedWord]:
        """What a line of a file stands for: the sentences where these were asked for, else the words."""
        return self.segments if self.granularity == "sentence" else self.words
