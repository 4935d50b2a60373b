"""Manifests of other people: what they are taken for, and which argument each column fills."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from soundmill.producer.manifest import BadLine, Line, Options, read_manifest
from soundmill.producer.manifests.layout import Format, Layout
from soundmill.producer.manifests.sniffing import find_manifest, sniff
from soundmill.storage.arguments import Arguments, AudioInput
from soundmill.storage.catalog import BUILT_IN, Catalog, Model
from soundmill.storage.errors import SubmitRefused


class CloneArguments(Arguments):
    text: str
    reference: AudioInput | None = None
    reference_text: str | None = None
    temperature: float = 1.0
    steps: tuple[int, ...] = ()


CLONE = Model(
    id="clone",
    kind="tts",
    title="",
    arguments=CloneArguments,
    handler="",
    licence="",
    audio_fields=("reference",),
)
CATALOG = Catalog([*BUILT_IN, CLONE])
OF_KIND = {"tts": "espeak-ng", "align": "espeak-dtw", "caption": "acoustic"}


def read(path: Path, wanted: Format | None = None, **options: Any) -> list[Line | BadLine]:
    with path.open("rb") as source:
        return list(read_manifest(source, "b", Options(**options), sniff(path, wanted), CATALOG))


def written(folder: Path, content: str | bytes, name: str = "m.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def arguments(path: Path, **options: Any) -> list[dict[str, Any]]:
    lines = read(path, **options)
    assert all(isinstance(line, Line) for line in lines), lines
    return [dict(line.request.args) for line in lines if isinstance(line, Line)]


def only_bad(path: Path, **options: Any) -> BadLine:
    [bad] = [line for line in read(path, **options) if isinstance(line, BadLine)]
    return bad


NEMO = json.dumps({"audio_filepath": "a.wav", "duration": 1.5, "text": "one", "speaker": 3, "lang": "de"})
FOLDER = json.dumps({"file_name": "x/a.wav", "transcription": "one", "speaker_id": 7})
MOSS = json.dumps({"name": "demo", "role": "ref.wav", "text": "one"})
EXPECTED: list[tuple[str, Format, dict[str, dict[str, Any]]]] = [
    ('{"text": "one"}', Format.JSONL, {"tts": {"text": "one"}}),
    (NEMO, Format.NEMO, {
        "tts": {"text": "one", "language": "de"},
        "align": {"text": "one", "audio": "a.wav", "language": "de"},
        "caption": {"audio": "a.wav"},
    }),
    (FOLDER, Format.AUDIOFOLDER, {
        "tts": {"text": "one"},
        "align": {"text": "one", "audio": "x/a.wav"},
        "caption": {"audio": "x/a.wav"},
    }),
    ("file_name,text,gender\na.wav,one,f\n", Format.AUDIOFOLDER, {
        "align": {"text": "one", "audio": "a.wav"}, "caption": {"audio": "a.wav"},
    }),
    ("LJ1-1|one, 1|one, one\n", Format.LJSPEECH, {
        "tts": {"text": "one, one"},
        "align": {"text": "one, one", "audio": "wavs/LJ1-1.wav"},
        "caption": {"audio": "wavs/LJ1-1.wav"},
    }),
    (MOSS, Format.MOSS, {"align": {"text": "one", "audio": "ref.wav"}, "caption": {"audio": "ref.wav"}}),
    ("u1|spoken|ref.wav|one\n", Format.SEED_TTS, {
        "align": {"text": "spoken", "audio": "ref.wav"}, "caption": {"audio": "ref.wav"},
    }),
    ("text,language,speed\n\"one, two\",de,1.5\n", Format.CSV, {
        "tts": {"text": "one, two", "language": "de", "speed": 1.5},
    }),
    ("client_id\tpath\tsentence\tlocale\nc\ta.mp3\tone\tde\n", Format.TSV, {
        "tts": {"text": "one", "language": "de"},
        "align": {"text": "one", "audio": "a.mp3", "language": "de"},
        "caption": {"audio": "a.mp3"},
    }),
]  # fmt: skip


@pytest.mark.parametrize(("content", "format", "by_kind"), EXPECTED)
def test_each_format_is_told_by_its_look_and_fills_what_the_kind_of_job_needs(
    tmp_path: Path, content: str, format: Format, by_kind: dict[str, dict[str, Any]]
) -> None:
    path = written(tmp_path, content)
    assert sniff(path).format == format
    for kind, expected in by_kind.items():
        assert arguments(path, model=OF_KIND[kind]) == [expected], kind


def test_reference_audio_goes_to_models_that_take_it_and_is_refused_by_others(tmp_path: Path) -> None:
    moss, seed = written(tmp_path, MOSS), written(tmp_path, "u1|spoken|ref.wav|one\n", "meta.lst")

    assert arguments(moss, model="clone") == [{"text": "one", "reference": "ref.wav"}]
    assert arguments(seed, model="clone") == [
        {"text": "one", "reference": "ref.wav", "reference_text": "spoken"}
    ]
    assert "role: espeak-ng takes no reference audio" in only_bad(moss, model="espeak-ng").sentence
    assert arguments(moss, model="espeak-ng", dropped=frozenset({"role"})) == [{"text": "one"}]


def test_ids_bind_and_labels_only_name(tmp_path: Path) -> None:
    [by_id] = read(written(tmp_path, "u1|raw|normal\n"), model="espeak-ng")
    [by_file] = read(written(tmp_path, FOLDER), model="acoustic")

    assert isinstance(by_id, Line)
    assert isinstance(by_file, Line)
    assert (by_id.request.custom_id, by_file.request.custom_id) == ("u1", "x/a.wav")
    assert by_id.request.idempotency_key is not None
    assert by_file.request.idempotency_key is None


def test_columns_that_fill_nothing_are_named(tmp_path: Path) -> None:
    [nemo] = read(written(tmp_path, NEMO), model="espeak-ng")
    [table] = read(written(tmp_path, "text,audio,duration,mine\none,a.wav,2,x\n"), model="espeak-ng",
                   dropped=frozenset({"mine"}))  # fmt: skip

    assert isinstance(nemo, Line)
    assert isinstance(table, Line)
    assert nemo.unused == {"audio_filepath", "duration", "speaker"}
    assert table.unused == {"audio", "duration", "mine"}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("text,mood\none,glad\n", "mood"),
        (json.dumps({"audio_filepath": "a.wav", "text": "one", "mood": "glad"}), "mood"),
        (json.dumps({"audio_filepath": "a.wav", "text": "one", "offset": 2.5}), "offset"),
    ],
)
def test_a_column_that_is_no_argument_is_refused_by_name(tmp_path: Path, content: str, name: str) -> None:
    bad = only_bad(written(tmp_path, content), model="espeak-ng")

    assert bad.sentence.startswith(f"{name}: ")
    assert bad.number == (2 if content.startswith("text") else 1)


def test_cells_become_what_the_argument_takes(tmp_path: Path) -> None:
    path = written(tmp_path, 'id,priority,text,temperature,steps\n7,9,"12",0.5,"[1, 2]"\n8,,3,,\n')
    first, second = read(path, model="clone")

    assert isinstance(first, Line)
    assert isinstance(second, Line)
    assert first.request.args == {"text": "12", "temperature": 0.5, "steps": [1, 2]}
    assert (first.request.custom_id, first.request.priority) == ("7", 9)
    assert second.request.args == {"text": "3"}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_sniffed(tmp_path: Path, separator: str) -> None:
    path = written(tmp_path, f"id{separator}text\n1{separator}one\n")

    assert sniff(path).separator == separator
    assert arguments(path, model="espeak-ng") == [{"text": "one"}]


def test_a_byte_order_mark_crlf_blank_lines_and_quotes_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path, b'\xef\xbb\xbfid,text\r\n\r\n1,"say ""ja"", \xc3\xa4h"\r\n2,"two\r\nlines"\r\n3,last'
    )
    found = read(path, model="espeak-ng")

    assert [(line.number, line.request.args["text"]) for line in found if isinstance(line, Line)] == [
        (3, 'say "ja", äh'), (4, "two\r\nlines"), (6, "last"),
    ]  # fmt: skip


def test_what_is_wrong_with_a_row_concerns_this_row_only(tmp_path: Path) -> None:
    path = written(tmp_path, b'id,text\n1,a\n2,b,c\n3,\xff\n4,"open\n5,e\n6,"f" g\n7,h\n')
    found = read(path, model="espeak-ng")
    bad = {line.number: line.sentence for line in found if isinstance(line, BadLine)}

    assert [line.request.custom_id for line in found if isinstance(line, Line)] == ["1", "5", "7"]
    assert bad.keys() == {3, 4, 5, 7}
    assert "3 cells where 2" in bad[3]
    assert "not UTF-8" in bad[4]
    assert "quotation marks" in bad[5]
    assert "quotation marks" in bad[7]


def test_quotation_marks_mean_nothing_in_files_without_a_header_and_little_in_tsv(tmp_path: Path) -> None:
    lj = written(tmp_path, 'a|"Well," he said|"Well," he said\nb|"open|"open\n')
    tsv = written(tmp_path, 'id\ttext\n1\t"Well," he said\n2\t"quoted"\n3\t"open\n4\td\n', "m.tsv")

    assert [args["text"] for args in arguments(lj, model="espeak-ng")] == ['"Well," he said', '"open']
    assert [args["text"] for args in arguments(tsv, model="espeak-ng")] == [
        '"Well," he said', "quoted", '"open', "d",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,text\na,b\n", "'text' twice"),
        ("a b c\nd e f\n", "in no format that is known"),
        ("text,lang\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_that_is_of_no_use_as_a_whole_is_refused(
    tmp_path: Path, content: str | bytes, words: str
) -> None:
    with pytest.raises(SubmitRefused, match=words):
        read(written(tmp_path, content), model="espeak-ng")


def test_an_empty_file_and_a_lonely_header_hold_no_lines(tmp_path: Path) -> None:
    for content in ("", "\n\n", "\ufeff", "id,text\n"):
        assert read(written(tmp_path, content), model="espeak-ng") == []


def test_what_somebody_says_about_the_format_goes_before_its_look(tmp_path: Path) -> None:
    path = written(tmp_path, "one|two|three\n", "m.csv")

    assert sniff(path, Format.LJSPEECH) == Layout(format=Format.LJSPEECH, separator="|")
    assert sniff(written(tmp_path, NEMO), Format.JSONL).format == Format.JSONL
    assert sniff(path, Format.TSV).separator == "\t"


def test_a_folder_is_submitted_by_its_metadata(tmp_path: Path) -> None:
    with pytest.raises(SubmitRefused, match="name the file"):
        find_manifest(tmp_path)
    metadata = written(tmp_path, FOLDER, "metadata.jsonl")
    assert find_manifest(tmp_path) == metadata
    written(tmp_path, "a", "meta.lst")
    with pytest.raises(SubmitRefused, match=r"metadata\.jsonl and meta\.lst"):
        find_manifest(tmp_path)


def test_a_long_table_is_read_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write("id,text\n")
        for number in range(30_000):
            file.write(f'{number},"line {number}"\n')
    layout = sniff(path)
    tracemalloc.start()
    with path.open("rb") as source:
        count = sum(1 for _ in read_manifest(source, "b", Options(model="espeak-ng"), layout, CATALOG))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 30_000
    assert peak < 1_000_000
