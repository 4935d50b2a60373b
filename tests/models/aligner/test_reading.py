"""From paths to alignments: times, scores and doubts, without a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uroman")

from soundmill.models.aligner.confidence import doubts, minutes
from soundmill.models.aligner.reading import Findings, Heading, read_alignment, write_alignment
from soundmill.models.aligner.script import STAR, Script, Wording, write_script
from soundmill.models.aligner.spans import frame_scores
from soundmill.models.alignment import Alignment, Granularity
from soundmill.models.trellis import best_path

from ..aligned import aligned
from .golden import arrays, facts

LETTERS = {
    **{letter: index + 4 for index, letter in enumerate("aienoutsrmkldghybpwcvjzf'qx")},
    STAR: 31,
}
HEADING = Heading(model="m", licence="l", language="eng", granularity="word", doubtful_below=-2.0)


def script(text: str, *, star: str = "edges", split: Granularity = "word") -> Script:
    wording = Wording(language="eng", split=split, star=star, spell_numbers=False)  # type: ignore[arg-type]
    return write_script(text, wording, LETTERS)


def read(text: str, found: Script, path: str, score: float = -1.0, **more: str) -> Alignment:
    """Read a path that is written as the label's numbers in base 36, and a dot for a blank."""
    states, label = [], -1
    for frame in path:
        label = label if frame == "." else int(frame, 36)
        states.append(2 * label + 1 if frame != "." else 2 * (label + 1))
    findings = Findings(
        states=np.array(states, np.int32), scores=np.full(len(states), score), duration_s=len(states) * 0.02
    )
    return read_alignment(text, found, findings, replace(HEADING, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", facts()["words"], ids=lambda case: case["case"])
def test_words_have_the_times_and_scores_of_the_reference(case: dict[str, object]) -> None:
    vectors, name, text = arrays(), case["case"], str(case["text"])
    emissions = vectors[f"{name}_logprobs"].astype(np.float32)
    found = script(text)
    assert found.labels.tolist() == vectors[f"{name}_targets"].tolist()
    path = best_path(emissions, found.labels)
    findings = Findings(
        states=path.states,
        scores=frame_scores(emissions, found.labels, path.states),
        duration_s=len(emissions) * 0.02 + 0.02,
    )
    words = read_alignment(text, found, findings, HEADING).words
    expected: list[dict[str, float | str]] = case["words"]  # type: ignore[assignment]
    tolerance = 1e-4 if name == "em0" else 1e-2  # the emissions of em1 are stored in float16
    assert [word.text for word in words] == [word["text"] for word in expected]
    for word, reference in zip(words, expected, strict=True):
        assert (word.start_s, word.end_s) == (reference["start"], reference["end"])
        assert word.score == pytest.approx(reference["score"], abs=tolerance)


def test_neighbours_share_the_middle_frame_in_scores_but_not_in_times() -> None:
    found = script("a b", star="none")
    scores = np.array([-1.0, -2.0, -9.0, -3.0, -4.0])
    findings = Findings(states=np.array([1, 2, 2, 2, 3], np.int32), scores=scores, duration_s=0.1)
    first, second = read_alignment("a b", found, findings, HEADING).words
    assert (first.start_s, first.end_s, first.score) == (0.0, 0.06, -4.0)
    assert (second.start_s, second.end_s, second.score) == (0.06, 0.1, round((-9 - 3 - 4) / 3, 4))


def test_what_cannot_be_looked_for_keeps_its_place() -> None:
    text = "… a 20 b!"
    words = read(text, script(text, star="none"), ".0..1.").words
    assert [(word.text, word.aligned, word.start_s, word.end_s) for word in words] == [
        ("…", False, 0.0, 0.0),
        ("a", True, 0.0, 0.06),
        ("20", False, 0.06, 0.06),
        ("b!", True, 0.06, 0.12),
    ]
    assert [word.romanized for word in words] == ["", "a", "", "b"]
    assert [text[word.char_start : word.char_end] for word in words] == [word.text for word in words]


def test_characters_share_the_times_of_their_words() -> None:
    text = "ab c"
    alignment = read(text, script(text, star="none"), "0.1..2")
    assert [(part.text, part.start_s, part.end_s) for part in alignment.characters] == [
        ("a", 0.0, 0.04), ("b", 0.04, 0.08), ("c", 0.08, 0.12),
    ]  # fmt: skip
    assert [(part.text, part.start_s, part.end_s) for part in alignment.words] == [
        ("ab", 0.0, 0.08), ("c", 0.08, 0.12),
    ]  # fmt: skip


def test_sentences_are_the_lines_if_these_are_wanted() -> None:
    text = "a b. c!"
    found = script(text, star="units", split="sentence")
    assert found.letters == "*ab*c"
    alignment = read(text, found, "0.12.34.", granularity="sentence")
    assert [(part.text, part.romanized) for part in alignment.units] == [("a b.", "a b"), ("c!", "c")]
    assert [part.text for part in alignment.words] == ["a", "b.", "c!"]


def test_characters_are_the_words_if_these_are_wanted() -> None:
    text = "ab 1"
    alignment = read(text, script(text, split="character"), "0123", granularity="character")
    assert [(part.text, part.aligned) for part in alignment.words] == [("a", True), ("b", True), ("1", False)]
    assert alignment.units == alignment.words == alignment.characters


def test_a_star_is_not_counted_in_the_score_of_a_sentence() -> None:
    text = "a b."
    found = script(text, star="units")
    findings = Findings(
        states=np.array([1, 3, 5, 5, 5, 7], np.int32),
        scores=np.array([0, -2.0, 0, 0, 0, -4.0]),
        duration_s=0.12,
    )
    assert found.letters == "*a*b"
    (sentence,) = read_alignment(text, found, findings, HEADING).segments
    assert sentence.score == -3.0


def test_no_time_lies_behind_the_recording() -> None:
    text = "a b"
    found = script(text, star="none")
    findings = Findings(states=np.array([1, 3], np.int32), scores=np.full(2, -1.0), duration_s=0.035)
    alignment = read_alignment(text, found, findings, HEADING)
    assert [(word.start_s, word.end_s) for word in alignment.words] == [(0.0, 0.02), (0.02, 0.035)]


def test_every_minute_has_a_score_and_doubtful_words_are_listed() -> None:
    spans = [(1.0, 2.0), (2.0, 4.0), (4.0, 4.0), (59.5, 61.0), (130.0, 131.0)]
    alignment = aligned("good bad — worse fine", spans, duration_s=140.0)
    words = [
        replace(word, score=score)
        for word, score in zip(alignment.words, [-0.5, -5.0, 0.0, -3.0, -0.1], strict=True)
    ]
    assert [(m.start_s, m.end_s, m.score, m.words, m.doubtful) for m in minutes(words, 140.0, -2.0)] == [
        (0.0, 60.0, round((-0.5 - 10 - 4.5) / 4.5, 4), 3, 2),
        (60.0, 120.0, None, 0, 0),
        (120.0, 140.0, -0.1, 1, 0),
    ]
    (doubt,) = doubts("good bad — worse fine", words, -2.0)
    assert (doubt.text, doubt.start_s, doubt.end_s) == ("bad — worse", 2.0, 61.0)
    assert doubt.score == round((-10 - 4.5) / 3.5, 4)
    assert doubts("good bad — worse fine", words, -9.0) == []


def test_the_report_says_what_the_row_keeps(tmp_path: Path) -> None:
    text = "a b 1"
    found = script(text, star="none")
    findings = Findings(states=np.array([1, 3], np.int32), scores=np.array([-1.0, -4.0]), duration_s=0.04)
    report = write_alignment(text, found, findings, HEADING, tmp_path, ("json", "tsv"), tmp_path / "none.wav")
    assert [file.name for file in report.files] == ["alignment.json", "alignment.tsv"]
    assert (report.words, report.unaligned, report.doubtful) == (3, 1, 1)
    assert (report.mean_score, report.lowest) == (-2.5, (0.0, -2.5))
