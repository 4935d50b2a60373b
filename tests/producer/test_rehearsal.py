"""A dry run: what it counts, what it estimates, and what it says of repeated ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from soundmill.producer import Producer
from soundmill.producer.cli import build_app
from soundmill.producer.commands.submit import HELP
from soundmill.producer.estimate import speech_s
from soundmill.producer.manifests.columns import VOCABULARIES
from soundmill.producer.manifests.layout import Format

from .playing import lines, rows_of, write_tone


@pytest.fixture
def producer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(tmp_path / "state"))
    with Producer() as opened:
        yield opened


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["submit", "--dry-run", *arguments])


def rehearse(*arguments: str, code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def test_jobs_are_counted_by_model_kind_and_language(producer: Producer) -> None:
    write_tone(Path("a.wav"), seconds=2.5)
    Path("m.jsonl").write_text(
        lines(
            {"model": "espeak-ng", "text": "x" * 152},
            {"model": "espeak-ng", "text": "x" * 152, "language": "de", "speed": 2},
            {"model": "acoustic", "audio": "a.wav"},
            {"model": "acoustic", "audio": "a.wav"},
        )
    )
    found = rehearse("m.jsonl")

    assert [(row["model"], row["kind"], row["language"], row["jobs"]) for row in found["jobs"]] == [
        ("acoustic", "caption", None, 2), ("espeak-ng", "tts", "de", 1), ("espeak-ng", "tts", "en-us", 1),
    ]  # fmt: skip
    assert (found["speech_s"], found["input_s"]) == (15.0, 5.0)
    assert "LJ Speech" in found["speech_assumption"]
    assert rows_of(producer.database) == []
    assert list(producer.blobs.list()) == []


def test_repeated_ids_are_named_and_those_that_ask_for_something_else_are_bad(producer: Producer) -> None:
    Path("m.csv").write_text("id,text\n1,a\n2,b\n1,a\n1,c\n3,\n")
    found = rehearse("m.csv", "--model", "espeak-ng", code=3)

    assert (found["format"], found["lines"], found["good"], found["repeated"]) == (
        "csv", 5, {"espeak-ng": 2}, 1,
    )  # fmt: skip
    assert found["repeats"] == [{"line": 4, "first": 2, "custom_id": "1"}]
    assert [(bad["line"], bad["custom_id"]) for bad in found["refusals"]] == [(5, "1"), (6, "3")]
    assert "line 2 has this id" in found["refusals"][0]["error"]
    words = run("m.csv", "--model", "espeak-ng")
    assert "5 lines (csv), 2 refused, 1 repeated" in words.stdout
    assert "m.csv:4 (1): the same as line 2" in words.stderr
    assert "m.csv:6 (3): text: espeak-ng needs this argument" in words.stderr


def test_a_dry_run_and_a_submit_agree_on_what_is_bad(producer: Producer) -> None:
    Path("metadata.csv").write_text("LJ1|raw|one\nLJ2|two\nLJ3\nLJ1|raw|one\nLJ1|raw|other\nLJ4|a|b|c\n")
    found = rehearse(".", "--model", "espeak-ng", code=3)
    result = CliRunner().invoke(build_app(), ["submit", ".", "--model", "espeak-ng", "--detach", "--json"])
    submitted = json.loads(result.stdout)

    assert result.exit_code == 3
    assert found["format"] == submitted["format"] == "ljspeech"
    assert [bad["line"] for bad in found["refusals"]] == [3, 5, 6]
    assert sorted(bad["line"] for bad in submitted["refusals"]) == [3, 5, 6]
    assert sum(found["good"].values()) == submitted["new"] == 2
    assert found["repeated"] == submitted["known"] == 1
    assert found["unused"] == submitted["unused"] == ["raw"]


def test_columns_that_were_not_used_are_told(producer: Producer) -> None:
    Path("m.tsv").write_text("text\tduration\tmood\nhello\t2\tglad\n")

    assert "m.tsv:2:1: mood: espeak-ng has no such argument" in run("m.tsv", "--model", "espeak-ng").stderr
    result = run("m.tsv", "--model", "espeak-ng", "--drop", "mood")
    assert result.exit_code == 0
    assert "columns that were not used: duration, mood" in result.stderr


def test_a_format_can_be_asked_for_and_a_file_of_no_use_is_a_wrong_use(producer: Producer) -> None:
    Path("m").write_text("no known words\n")

    assert run("m", "--model", "espeak-ng").exit_code == 2
    assert run("m", "--format", "cvs").exit_code == 2
    assert rehearse("m", "--format", "ljspeech", "--model", "espeak-ng", code=1)["refused"] == 1
    Path("m.csv").write_text("text,text\na,b\n")
    result = run("m.csv", "--model", "espeak-ng")
    assert result.exit_code == 2
    assert "'text' twice" in result.stderr


def test_the_help_names_every_format(producer: Producer) -> None:
    for name in Format:
        assert name in HELP or name == Format.JSONL
    for vocabulary in VOCABULARIES.values():
        assert vocabulary.roles.keys() <= {"tts", "align", "caption"}
    shown = CliRunner().invoke(build_app(), ["submit", "--help"], env={"COLUMNS": "200"})
    assert "seed-tts" in shown.stdout


def test_syllables_take_longer_than_letters() -> None:
    assert speech_s("x" * 152) == pytest.approx(10)
    assert speech_s("世" * 52) == pytest.approx(10)
    assert speech_s("x" * 152, 2.0) == pytest.approx(5)
    assert speech_s("") == 0
