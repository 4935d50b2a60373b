"""The alignment that a path means: times, scores, and the files. Runs in a helper process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..alignment import AlignedWord, Alignment, Granularity
from ..alignment_files import prepare_files
from ..handler import OutputFile
from ..trellis import States
from .confidence import doubts, mean_score, minutes
from .script import STAR, Parts, Script
from .spans import LabelFrames, label_frames
from .windows import FRAME_STEP_S

SCORE_CONVENTION = (
    "mean natural-log probability of the path over all frames of the span, stars left out; 0 is sure"
)

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found.

    Attributes:
        states: [F], the path.
        scores: [F], the log-probability of what it has at each frame.
    """

    states: States
    scores: Scores
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What else an alignment says about itself."""

    model: str
    licence: str
    language: str
    granularity: Granularity
    doubtful_below: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The files of an alignment, and what the row says of it.

    Attributes:
        texts: Those of the files that are still to be written, with `alignment_files.write_text`.
        mean_score: Of all words, weighted by their lengths.
        lowest: Start of the minute that fits least, in seconds, and its score.
    """

    files: tuple[OutputFile, ...]
    texts: dict[Path, str]
    words: int
    unaligned: int
    mean_score: float
    doubtful: int
    lowest: tuple[float, float]


def write_alignment(
    text: str,
    script: Script,
    findings: Findings,
    heading: Heading,
    folder: Path,
    formats: tuple[str, ...],
    audio: Path,
) -> Report:
    """Write the alignment of a recording into a folder, in each of the formats, or prepare what is short."""
    alignment = read_alignment(text, script, findings, heading)
    scored = [(minute.score, minute.start_s) for minute in alignment.minutes if minute.score is not None]
    lowest_score, lowest_start_s = min(scored)
    files, texts = prepare_files(folder, alignment, formats, audio)
    return Report(
        files=files,
        texts=texts,
        words=len(alignment.words),
        unaligned=sum(not word.aligned for word in alignment.words),
        mean_score=mean_score([word for word in alignment.words if word.aligned]),
        doubtful=sum(minute.doubtful for minute in alignment.minutes),
        lowest=(lowest_start_s, lowest_score),
    )


def read_alignment(text: str, script: Script, findings: Findings, heading: Heading) -> Alignment:
    """Give every part of the text its time and its score."""
    reader = _Reader(text, script, findings)
    characters = list(reader.parts(script.characters))
    words = characters if heading.granularity == "character" else list(reader.parts(script.words))
    return Alignment(
        model=heading.model,
        granularity=heading.granularity,
        frame_step_s=FRAME_STEP_S,
        score_convention=SCORE_CONVENTION,
        duration_s=findings.duration_s,
        words=words,
        log_scores=True,
        language=heading.language,
        licence=heading.licence,
        segments=list(reader.parts(script.sentences, spaced=True)),
        characters=characters,
        minutes=minutes(words, findings.duration_s, heading.doubtful_below),
        doubtful=doubts(text, words, heading.doubtful_below),
    )


class _Reader:
    """The path, laid out so that a part costs the same whatever its length."""

    def __init__(self, text: str, script: Script, findings: Findings) -> None:
        self._text = text
        self._letters = script.letters
        self._frames: LabelFrames = label_frames(findings.states, len(script.labels))
        self._duration_s = findings.duration_s
        stars = np.append(np.array([letter == STAR for letter in script.letters], bool), False)
        counted = ~(stars[findings.states // 2] & (findings.states % 2 == 1))
        self._sums = np.append(0.0, np.cumsum(np.where(counted, findings.scores, 0.0)))
        self._counts = np.append(0, np.cumsum(counted))
        self._word_labels = script.words.first[script.words.end > script.words.first]

    def parts(self, parts: Parts, *, spaced: bool = False) -> Iterator[AlignedWord]:
        """Parts in order; what is not aligned stands where the one before it ends, or the first one begins.

        Args:
            spaced: Whether to put spaces between the words of the romanised form.
        """
        sought = parts.end > parts.first
        first = self._frames.first[np.where(sought, parts.first, 0)]
        last = self._frames.last[np.where(sought, parts.end, 1) - 1]
        counts = np.maximum(self._counts[last + 1] - self._counts[first], 1)
        scores = (self._sums[last + 1] - self._sums[first]) / counts
        end_s = float(first[np.argmax(sought)] * FRAME_STEP_S) if sought.any() else 0.0
        for index in range(len(sought)):
            aligned = bool(sought[index])
            # A neighbour that shares its middle frame starts behind it.
            start_s = max(end_s, self._second(first[index])) if aligned else end_s
            end_s = max(start_s, self._second(last[index] + 1)) if aligned else end_s
            label, beyond = int(parts.first[index]), int(parts.end[index])
            char_start, char_end = int(parts.char_start[index]), int(parts.char_end[index])
            yield AlignedWord(
                text=self._text[char_start:char_end],
                start_s=start_s,
                end_s=end_s,
                score=round(float(scores[index]), 4) if aligned else 0.0,
                aligned=aligned,
                char_start=char_start,
                char_end=char_end,
                romanized=self._romanized(label, beyond, spaced),
            )

    def _second(self, frame: int) -> float:
        return min(round(float(frame) * FRAME_STEP_S, 6), self._duration_s)

    def _romanized(self, first: int, end: int, spaced: bool) -> str:
        if not spaced:
            return self._letters[first:end].replace(STAR, "")
        begin, beyond = np.searchsorted(self._word_labels, [first + 1, end])
        cuts = [first, *self._word_labels[begin:beyond].tolist(), end]
        return " ".join(self._letters[a:b] for a, b in pairwise(cuts)).replace(STAR, "")
