from __future__ import annotations

import re

import pysubs2
from hypothesis import given

from soundmill.models.alignment import Alignment
from soundmill.models.karaoke import as_ass
from soundmill.models.subtitles import cues

from .aligned import aligned, alignments

_WIDE = str.maketrans("{}\\", "｛｝＼")
_TAG = re.compile(r"\{\\k(\d+)\}([^{]*)")


def read(text: str) -> pysubs2.SSAFile:
    return pysubs2.SSAFile.from_string(text, format_="ass")


@given(alignments())
def test_pysubs2_reads_the_cues_of_the_other_subtitles(alignment: Alignment) -> None:
    events, expected = read(as_ass(alignment)).events, cues(alignment)
    assert [event.plaintext for event in events] == [
        "\n".join(cue.lines).translate(_WIDE) for cue in expected
    ]
    for event, cue in zip(events, expected, strict=True):
        assert abs(event.start - 1000 * cue.start_s) <= 5  # the format has hundredths of a second
        assert abs(event.end - 1000 * cue.end_s) <= 5


@given(alignments())
def test_each_word_lights_up_when_it_is_said(alignment: Alignment) -> None:
    for event, cue in zip(read(as_ass(alignment)).events, cues(alignment), strict=True):
        start = now = event.start // 10
        found = []
        for length, text in _TAG.findall(event.text.replace(r"\N", "")):
            if text:
                found.append((now, now + int(length)))
            now += int(length)
        parts = [part for line in cue.parts for part in line]
        assert found == [  # marks before the first word of a cue light up with it
            (max(start, round(100 * part.start_s)), max(start, round(100 * part.end_s))) for part in parts
        ]


def test_pauses_light_up_nothing() -> None:
    text = as_ass(aligned("one two", [(0.5, 0.9), (1.2, 1.5)], duration_s=2.0))
    assert text.splitlines()[-1] == (
        r"Dialogue: 0,0:00:00.50,0:00:01.50,Default,,0,0,0,karaoke,{\k40}one{\k30}{\k30} two"
    )


def test_what_looks_like_a_tag_is_none() -> None:
    alignment = aligned(r"{\k9} a\Nb", [(0.0, 0.5), (0.5, 1.5)], duration_s=2.0)
    (event,) = read(as_ass(alignment)).events
    assert event.plaintext == "｛＼k9｝ a＼Nb"


def test_hours_are_written_out() -> None:
    assert "0,1:01:01.50,1:01:02.50," in as_ass(aligned("late", [(3661.5, 3662.25)], duration_s=4000.0))
