"""Built alignments, for the tests of what is written of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import strategies as st

from soundmill.models.alignment import AlignedWord, Alignment, Doubt, Minute

# Letters of one and of two columns, marks that end a sentence or a clause, and what formats may trip over.
TOKENS = st.one_of(
    st.text(st.sampled_from("abcdefghij,.!?&<>-;:'\"é日本。、1"), min_size=1, max_size=12),
    st.sampled_from(["-->", "&amp;", "<i>", "WEBVTT", "NOTE", "1", "Mr.", "Rindfleisch" * 9, "日本語" * 20]),
)


def aligned(text: str, spans: Sequence[tuple[float, float]], *, duration_s: float) -> Alignment:
    """An alignment of words between which there is white space; an empty span is not spoken."""
    words = [
        AlignedWord(
            text=match.group(),
            start_s=start_s,
            end_s=end_s,
            score=0.75 if end_s > start_s else 0.0,
            aligned=end_s > start_s,
            char_start=match.start(),
            char_end=match.end(),
        )
        for match, (start_s, end_s) in zip(re.finditer(r"\S+", text), spans, strict=True)
    ]
    return Alignment(
        model="built",
        granularity="word",
        frame_step_s=0.01,
        score_convention="none",
        duration_s=duration_s,
        words=words,
    )


def _part(text: str, start_s: float, end_s: float, char_start: int) -> AlignedWord:
    return AlignedWord(
        text=text,
        start_s=start_s,
        end_s=end_s,
        score=-0.5 if end_s > start_s else 0.0,
        aligned=end_s > start_s,
        char_start=char_start,
        char_end=char_start + len(text),
        romanized=text.strip(".,!").lower(),
    )


def detailed() -> Alignment:
    """An alignment of a neural aligner, with all that one may know."""
    return Alignment(
        model="built",
        granularity="word",
        frame_step_s=0.02,
        score_convention="logarithms",
        duration_s=2.0,
        log_scores=True,
        language="eng",
        licence="CC0-1.0",
        words=[_part("Hello,", 0.5, 0.7, 0), _part("you.", 0.7, 0.9, 7), _part("World!", 1.1, 1.6, 12)],
        segments=[_part("Hello,\nyou.", 0.5, 0.9, 0), _part("World!", 1.1, 1.6, 12)],
        characters=[
            _part("He", 0.5, 0.6, 0), _part("llo", 0.6, 0.6, 2), _part(",", 0.6, 0.6, 5), _part("you.", 0.7, 0.9, 7),
            _part("World", 1.1, 1.6, 12), _part("!", 1.6, 1.6, 17),
        ],
        minutes=[Minute(start_s=0.0, end_s=2.0, score=None, words=3, doubtful=1)],
        doubtful=[Doubt(text="World!", start_s=1.1, end_s=1.6, score=-0.5, char_start=12, char_end=18)],
    )  # fmt: skip


def spoken_evenly(text: str, *, word_s: float = 0.4) -> Alignment:
    """Words of one length, without pauses."""
    count = len(text.split())
    spans = [(index * word_s, (index + 1) * word_s) for index in range(count)]
    return aligned(text, spans, duration_s=count * word_s)


@st.composite
def alignments(draw: st.DrawFn) -> Alignment:
    """Words in order, with pauses, of which some are not spoken but one is; times in steps of 10 ms."""
    tokens = draw(st.lists(TOKENS, min_size=1, max_size=40))
    said = draw(st.integers(0, len(tokens) - 1))
    time, spans = draw(st.integers(0, 300)), []
    for index in range(len(tokens)):
        start = time + (0 if index == 0 else draw(st.sampled_from([0, 0, 0, 20, 200])))
        length = draw(st.sampled_from([0, 3, 20, 45, 900]))
        if index == said:
            length = max(length, 3)
        if length == 0:
            start = time  # what is not spoken stands right behind the word before
        time = start + length
        spans.append((start / 100, time / 100))
    return aligned(" ".join(tokens), spans, duration_s=(time + draw(st.integers(0, 200))) / 100)
