"""The corpus beside the tests: what its README says of it, and that it is a manifest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from soundmill.producer.cli import build_app

CORPUS = Path(__file__).parent / "data" / "corpus"
SENTENCES = CORPUS / "sentences.jsonl"


def sentences() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]


def test_it_has_five_hundred_distinct_sentences_in_each_of_four_languages() -> None:
    found = sentences()

    assert Counter(line["language"] for line in found) == dict.fromkeys(("en-us", "de", "fr-fr", "es"), 500)
    assert len({line["text"] for line in found}) == len({line["id"] for line in found}) == 2000
    # Every part of it holds as many of each language.
    assert Counter(line["language"] for line in found[:500]) == dict.fromkeys(
        ("en-us", "de", "fr-fr", "es"), 125
    )
    assert SENTENCES.stat().st_size < 400_000


def test_its_source_and_licence_lie_beside_it() -> None:
    words = (CORPUS / "README.md").read_text(encoding="utf-8")
    notice = (CORPUS.parents[2] / "NOTICE").read_text(encoding="utf-8")

    for part in ("apache2-doc", "Apache License 2.0", "Changes:"):
        assert part in words
    assert "tests/data/corpus" in notice


def test_every_line_is_a_job_of_a_model_that_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(tmp_path))
    result = CliRunner().invoke(
        build_app(), ["submit", str(SENTENCES), "--model", "espeak-ng", "--dry-run", "--json"]
    )
    found = json.loads(result.stdout)

    assert result.exit_code == 0
    assert (found["lines"], found["refused"], found["repeated"]) == (2000, 0, 0)
    assert {row["jobs"] for row in found["jobs"]} == {500}
    # eSpeak NG speaks it in 3.2 hours; an estimate is off by a third at most.
    assert found["speech_s"] == pytest.approx(3.2 * 3600, rel=1 / 3)
