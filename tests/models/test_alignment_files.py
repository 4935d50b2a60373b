from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from praatio import textgrid

from soundmill.models.alignment import AlignedWord, Alignment
from soundmill.models.alignment_files import FORMATS, as_ctm, as_json, as_tsv, write_files
from soundmill.storage.arguments import AlignmentFormat

from .aligned import aligned, alignments

SPOKEN = aligned("Hello , world!", [(0.5, 0.9), (0.9, 0.9), (1.1, 1.6)], duration_s=2.0)


def test_the_catalogue_offers_exactly_the_formats_that_can_be_written() -> None:
    assert set(get_args(AlignmentFormat)) == set(FORMATS)


def test_every_format_has_a_name_and_a_role_of_its_own(tmp_path: Path) -> None:
    files = write_files(tmp_path, SPOKEN, tuple(FORMATS))

    assert [(file.name, file.role) for file in files] == [
        ("alignment.json", "alignment"),
        ("alignment.TextGrid", "textgrid"),
        ("alignment.srt", "srt"),
        ("alignment.vtt", "vtt"),
        ("alignment.ctm", "ctm"),
        ("alignment.tsv", "tsv"),
    ]
    assert all(file.path.stat().st_size for file in files)


def test_only_what_is_wanted_is_written(tmp_path: Path) -> None:
    assert [file.name for file in write_files(tmp_path, SPOKEN, ("ctm", "vtt", "ctm"))] == [
        "alignment.vtt",
        "alignment.ctm",
    ]
    assert len(list(tmp_path.iterdir())) == 2


def test_ctm_has_a_line_for_each_word_that_is_spoken() -> None:
    assert as_ctm(SPOKEN) == "audio 1 0.500 0.400 Hello 0.7500\naudio 1 1.100 0.500 world! 0.7500\n"


def test_tsv_has_a_line_for_each_word_in_milliseconds() -> None:
    assert as_tsv(SPOKEN) == "start\tend\ttext\n500\t900\tHello\n900\t900\t,\n1100\t1600\tworld!\n"


@given(alignments())
def test_ctm_keeps_order_words_and_times(alignment: Alignment) -> None:
    spoken = [word for word in alignment.words if word.aligned]
    rows = [line.split(" ") for line in as_ctm(alignment).splitlines()]
    assert [row[4] for row in rows] == [word.text for word in spoken]
    for (file, channel, start, length, _, score), word in zip(rows, spoken, strict=True):
        assert (file, channel) == ("audio", "1")
        assert float(start) == pytest.approx(word.start_s, abs=0.00051)
        assert float(start) + float(length) == pytest.approx(word.end_s, abs=0.00051)
        assert 0 <= float(score) <= 1


@given(alignments())
def test_tsv_keeps_order_words_and_times(alignment: Alignment) -> None:
    head, *rows = [line.split("\t") for line in as_tsv(alignment).split("\n")[:-1]]
    assert head == ["start", "end", "text"]
    assert [text for _, _, text in rows] == [word.text for word in alignment.words]
    edges = [int(edge) for start, end, _ in rows for edge in (start, end)]
    assert edges == sorted(edges)
    assert edges == [round(1000 * edge) for word in alignment.words for edge in (word.start_s, word.end_s)]


@given(alignments())
def test_json_holds_everything(alignment: Alignment) -> None:
    document = json.loads(as_json(alignment))
    words: Sequence[AlignedWord] = [AlignedWord(**word) for word in document.pop("words")]
    assert Alignment(**document, words=words) == alignment


@given(st.data())
def test_praat_reads_every_word_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    alignment = data.draw(alignments())
    folder = tmp_path_factory.mktemp("grid")
    write_files(folder, alignment, ("textgrid",))
    grid = textgrid.openTextgrid(str(folder / "alignment.TextGrid"), includeEmptyIntervals=True)
    entries = grid.getTier("words").entries
    assert " ".join(entry.label for entry in entries if entry.label) == " ".join(
        word.text for word in alignment.words
    )
    assert entries[0].start == 0
    assert entries[-1].end == pytest.approx(alignment.duration_s)
