from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from praatio import textgrid

from soundmill.models.alignment import AlignedWord, Alignment, Doubt, Minute
from soundmill.models.alignment_files import FORMATS, as_ctm, as_json, as_labels, as_tsv, write_files
from soundmill.storage.arguments import AlignmentFormat

from .aligned import aligned, alignments, detailed

RECORDING = Path("not-read-without-a-picture.wav")
PICTURE = "png"
SPOKEN = aligned("Hello , world!", [(0.5, 0.9), (0.9, 0.9), (1.1, 1.6)], duration_s=2.0)


def test_the_catalogue_offers_exactly_the_formats_that_can_be_written() -> None:
    assert set(get_args(AlignmentFormat)) == set(FORMATS)


def test_every_format_has_a_name_and_a_role_of_its_own(tmp_path: Path) -> None:
    formats = tuple(name for name in FORMATS if name != PICTURE)  # `test_picture.py` has that one
    files = write_files(tmp_path, SPOKEN, formats, RECORDING)

    assert [(file.name, file.role) for file in files] == [
        ("alignment.json", "alignment"),
        ("alignment.TextGrid", "textgrid"),
        ("alignment.short.TextGrid", "textgrid-short"),
        ("alignment.srt", "srt"),
        ("alignment.vtt", "vtt"),
        ("alignment.ass", "ass"),
        ("alignment.ctm", "ctm"),
        ("alignment.tsv", "tsv"),
        ("alignment.labels.txt", "audacity"),
    ]
    assert all(file.path.stat().st_size for file in files)


def test_only_what_is_wanted_is_written(tmp_path: Path) -> None:
    assert [file.name for file in write_files(tmp_path, SPOKEN, ("ctm", "vtt", "ctm"), RECORDING)] == [
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


FORMULA = re.compile(r"[=+\-@＝＋－＠]")


def uncovered(cell: str) -> str:
    """The text of a cell of our TSV."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell.lstrip("'")) else cell


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("=1+1", "'=1+1"),
        ("-5", "'-5"),
        ("@home", "'@home"),
        ("'=1", "''=1"),
        ("'tis", "'tis"),
        ("a=b", "a=b"),
    ],
)
def test_no_spreadsheet_computes_a_word_of_a_tsv(word: str, written: str) -> None:
    alignment = replace(SPOKEN, words=(replace(SPOKEN.words[0], text=word),))
    assert as_tsv(alignment).split("\n")[1] == f"500\t900\t{written}"
    assert uncovered(written) == word


@given(alignments())
def test_tsv_keeps_order_words_and_times(alignment: Alignment) -> None:
    head, *rows = [line.split("\t") for line in as_tsv(alignment).split("\n")[:-1]]
    assert head == ["start", "end", "text"]
    assert [uncovered(text) for _, _, text in rows] == [word.text for word in alignment.words]
    assert not any(FORMULA.match(text) for _, _, text in rows), "a spreadsheet would compute it"
    edges = [int(edge) for start, end, _ in rows for edge in (start, end)]
    assert edges == sorted(edges)
    assert edges == [round(1000 * edge) for word in alignment.words for edge in (word.start_s, word.end_s)]


@given(alignments())
def test_a_label_track_keeps_order_words_and_times(alignment: Alignment) -> None:
    """As Audacity's manual has it: start, end and text on a line, separated by tabs, times in seconds."""
    rows = list(csv.reader(io.StringIO(as_labels(alignment)), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [text for _, _, text in rows] == [word.text for word in alignment.words]
    for (start, end, _), word in zip(rows, alignment.words, strict=True):
        assert float(start) == pytest.approx(word.start_s, abs=1e-6)
        assert float(end) == pytest.approx(word.end_s, abs=1e-6)


def test_logarithms_become_confidences_in_ctm() -> None:
    words = [replace(word, score=-0.25) for word in SPOKEN.words]
    lines = as_ctm(replace(SPOKEN, words=words, log_scores=True)).splitlines()
    assert [float(line.split(" ")[5]) for line in lines] == [round(math.exp(-0.25), 4)] * 2


def test_lines_are_sentences_where_these_were_asked_for() -> None:
    alignment = replace(detailed(), granularity="sentence")
    assert as_tsv(alignment) == "start\tend\ttext\n500\t900\tHello, you.\n1100\t1600\tWorld!\n"
    assert as_labels(alignment) == "0.500000\t0.900000\tHello, you.\n1.100000\t1.600000\tWorld!\n"
    assert as_ctm(alignment).count("\n") == 3


@given(alignments())
def test_json_holds_everything(alignment: Alignment) -> None:
    document = json.loads(as_json(alignment))
    words: Sequence[AlignedWord] = [AlignedWord(**word) for word in document.pop("words")]
    assert Alignment(**document, words=words) == alignment


def test_json_holds_all_that_an_aligner_knows() -> None:
    document = json.loads(as_json(detailed()))
    lists: dict[str, Any] = {
        name: [kind(**entry) for entry in document.pop(name)]
        for name, kind in {
            "words": AlignedWord, "segments": AlignedWord, "characters": AlignedWord, "minutes": Minute, "doubtful": Doubt,
        }.items()
    }  # fmt: skip
    assert Alignment(**document, **lists) == detailed()


def test_json_has_no_fields_of_what_a_model_does_not_know() -> None:
    assert set(json.loads(as_json(SPOKEN))) == {
        "model", "granularity", "frame_step_s", "score_convention", "duration_s", "words", "log_scores",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["textgrid", "textgrid-short"])
@given(data=st.data())
def test_praat_reads_every_word_back(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    alignment = data.draw(alignments())
    (file,) = write_files(tmp_path_factory.mktemp("grid"), alignment, (form,), RECORDING)
    grid = textgrid.openTextgrid(str(file.path), includeEmptyIntervals=True)
    entries = grid.getTier("words").entries
    assert " ".join(entry.label for entry in entries if entry.label) == " ".join(
        word.text for word in alignment.words
    )
    assert entries[0].start == 0
    assert entries[-1].end == pytest.approx(alignment.duration_s)


def test_the_two_forms_of_a_textgrid_differ_and_say_the_same(tmp_path: Path) -> None:
    files = write_files(tmp_path, detailed(), ("textgrid", "textgrid-short"), RECORDING)
    long, short = (file.path.read_text("utf-8") for file in files)
    assert "intervals [1]" in long
    assert "intervals [1]" not in short
    first, second = (textgrid.openTextgrid(str(file.path), includeEmptyIntervals=False) for file in files)
    assert first.tierNames == second.tierNames == ("segments", "words", "characters")
    assert [first.getTier(name).entries for name in first.tierNames] == [
        second.getTier(name).entries for name in second.tierNames
    ]
    assert [entry.label for entry in first.getTier("segments").entries] == ["Hello, you.", "World!"]
    assert [entry.label for entry in first.getTier("characters").entries] == ["He llo ,", "you.", "World !"]
