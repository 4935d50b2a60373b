from __future__ import annotations

import html
import io
import unicodedata
from dataclasses import replace

import pysubs2
import pytest
import webvtt
from hypothesis import given

from soundmill.models.alignment import Alignment
from soundmill.models.subtitles import (
    LONGEST_S,
    MAX_COLUMNS,
    MAX_LINES,
    SHORTEST_S,
    as_srt,
    as_vtt,
    cues,
)

from .aligned import aligned, alignments, spoken_evenly


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def letters(text: str) -> str:
    return "".join(text.split())


@given(alignments())
def test_cues_keep_to_the_form(alignment: Alignment) -> None:
    found = cues(alignment)
    for cue in found:
        assert 1 <= len(cue.lines) <= MAX_LINES
        assert all(0 < columns(line) <= MAX_COLUMNS for line in cue.lines)
        assert 0 < cue.end_s - cue.start_s <= LONGEST_S + 1e-9
        assert cue.end_s <= alignment.duration_s
    edges = [edge for cue in found for edge in (cue.start_s, cue.end_s)]
    assert edges == sorted(edges)


@given(alignments())
def test_every_spoken_word_is_shown_while_it_is_said(alignment: Alignment) -> None:
    spoken = replace(alignment, words=[word for word in alignment.words if word.aligned])
    found = cues(spoken)
    assert letters("".join(line for cue in found for line in cue.lines)) == letters(
        "".join(word.text for word in spoken.words)
    )
    assert {cue.start_s for cue in found} <= {
        word.start_s for word in spoken.words if columns(word.text) <= MAX_COLUMNS
    } | {cue.start_s for cue in found for word in spoken.words if word.start_s <= cue.start_s < word.end_s}


def test_sentences_get_cues_of_their_own() -> None:
    text = "The first sentence is short. The second one is a little longer than it. Is this the third?"
    assert [cue.lines for cue in cues(spoken_evenly(text))] == [
        ("The first sentence is short.",),
        ("The second one is a little longer than it.",),
        ("Is this the third?",),
    ]


def test_what_would_flash_by_joins_its_neighbour() -> None:
    assert [cue.lines for cue in cues(spoken_evenly("Mr. Jones went home by train. He slept."))] == [
        ("Mr. Jones went home by train. He slept.",)
    ]


def test_a_long_sentence_is_cut_between_its_clauses() -> None:
    text = (
        "When the rain had stopped at last and the sun came out above the hills, "
        "they packed their things and walked on to the village by the river."
    )
    assert [" ".join(cue.lines) for cue in cues(spoken_evenly(text))] == [
        text[: text.index(",") + 1],
        text[text.index(",") + 2 :],
    ]


def test_lines_break_behind_a_clause_or_in_the_middle() -> None:
    (cue,) = cues(
        spoken_evenly("After a very long walk home, we were all far too tired to talk.", word_s=0.3)
    )
    assert cue.lines == ("After a very long walk home,", "we were all far too tired to talk.")


def test_a_long_pause_ends_a_cue() -> None:
    found = cues(aligned("one two", [(0.0, 0.5), (4.0, 4.5)], duration_s=6.0))
    assert [(cue.lines, cue.start_s) for cue in found] == [(("one",), 0.0), (("two",), 4.0)]


def test_a_short_cue_stands_longer_if_there_is_time() -> None:
    (cue,) = cues(aligned("yes", [(1.0, 1.2)], duration_s=9.0))
    assert cue.end_s - cue.start_s == SHORTEST_S
    (cue,) = cues(aligned("yes", [(1.0, 1.2)], duration_s=1.5))
    assert cue.end_s == 1.5


def test_characters_of_a_language_without_spaces_stay_together() -> None:
    text = "今天天气很好，我们去公园散步。"
    alignment = spoken_evenly(" ".join(text), word_s=0.25)
    words = [
        replace(word, char_start=index, char_end=index + 1) for index, word in enumerate(alignment.words)
    ]
    (cue,) = cues(replace(alignment, words=words))
    assert cue.lines == (text,)


def test_a_word_wider_than_a_line_is_divided_by_its_columns() -> None:
    (cue,) = cues(aligned("x" * 63, [(0.0, 3.0)], duration_s=3.0))
    assert [len(line) for line in cue.lines] in ([42, 21], [21, 42])


def test_no_words_make_no_cues() -> None:
    assert cues(aligned("", [], duration_s=1.0)) == []


@given(alignments())
def test_pysubs2_reads_the_srt_back(alignment: Alignment) -> None:
    read = pysubs2.SSAFile.from_string(as_srt(alignment), format_="srt", keep_unknown_html_tags=True)
    expected = cues(alignment)
    assert [(event.start, event.end) for event in read] == [
        (round(1000 * cue.start_s), round(1000 * cue.end_s)) for cue in expected
    ]
    for event, cue in zip(read, expected, strict=True):
        shown = "\n".join(cue.lines)
        if "<" not in shown:  # SRT has no escapes: what looks like a tag is one
            assert event.text.replace(r"\N", "\n") == shown.replace("-->", "→")


@given(alignments())
def test_webvtt_reads_the_vtt_back(alignment: Alignment) -> None:
    text = as_vtt(alignment)
    assert text.count("-->") == len(cues(alignment))
    read = webvtt.from_buffer(io.StringIO(text))
    assert [caption.start_in_seconds for caption in read.captions] == [
        int(cue.start_s) for cue in cues(alignment)
    ]
    assert [[html.unescape(line) for line in caption.lines] for caption in read.captions] == [
        list(cue.lines) for cue in cues(alignment)
    ]


@pytest.mark.parametrize(("write", "arrow"), [(as_srt, "→"), (as_vtt, "--&gt;")])
def test_an_arrow_in_the_text_is_no_time(write: object, arrow: str) -> None:
    text = write(spoken_evenly("from --> to"))  # type: ignore[operator]
    assert f"from {arrow} to" in text
    assert text.count("-->") == 1


def test_hours_are_written_out() -> None:
    alignment = aligned("late", [(3661.5, 3662.25)], duration_s=4000.0)
    assert "01:01:01,500 --> 01:01:02,500" in as_srt(alignment)
    assert "01:01:01.500 --> 01:01:02.500" in as_vtt(alignment)
