"""`soundmill submit`: streams, resumes, names bad lines, and ends with the right code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from soundmill.producer import Producer
from soundmill.producer.cli import build_app

from .playing import finish, lines, rows_of, worker_at_work, write_tone

NO = "the drill says no"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; everything is kept in `state` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def producer(here: Path) -> Iterator[Producer]:
    with Producer() as opened:
        yield opened


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["submit", *arguments])


def submit(*arguments: str) -> tuple[int, Any]:
    """Run with `--json`; the code and the answer."""
    result = run(*arguments, "--json")
    assert result.stdout, result.stderr
    return result.exit_code, json.loads(result.stdout)


def write(*objects: Any, name: str = "m.jsonl") -> str:
    Path(name).write_text(lines(*objects), encoding="utf-8")
    return name


def texts(producer: Producer) -> list[str]:
    return [row.args["text"] for row in rows_of(producer.database)]


def test_it_submits_every_line_waits_and_ends_with_0(producer: Producer) -> None:
    write(*({"text": f"line {number}", "id": number} for number in range(40)))
    with worker_at_work(producer.database):
        code, answer = submit("m.jsonl", "--model", "espeak-ng")

    assert code == 0
    assert (answer["lines"], answer["new"], answer["known"], answer["refused"]) == (40, 40, 0, 0)
    assert answer["jobs"]["completed"] == 40


def test_the_same_command_again_adds_nothing_and_ends_the_same(producer: Producer) -> None:
    write({"text": "a"}, {"text": "a"}, {"text": "b", "id": "x"}, {"text": "bad"})
    with worker_at_work(producer.database, fail={"bad"}):
        first_code, first = submit("m.jsonl", "--model", "espeak-ng")
        second_code, second = submit("m.jsonl", "--model", "espeak-ng")

    assert first_code == second_code == 3
    assert first["jobs"] == second["jobs"]
    assert first["failures"] == second["failures"]
    assert (second["new"], second["known"]) == (0, 4)
    assert len(texts(producer)) == 4


def test_appended_and_reordered_lines_neither_double_nor_shift(producer: Producer) -> None:
    write({"text": "a"}, {"text": "b"}, {"text": "a"})
    submit("m.jsonl", "--model", "espeak-ng", "--detach")
    write({"text": "c"}, {"text": "a"}, {"text": "a"}, {"text": "b"}, {"text": "a"})
    _, answer = submit("m.jsonl", "--model", "espeak-ng", "--detach")

    assert (answer["new"], answer["known"]) == (2, 3)
    assert sorted(texts(producer)) == ["a", "a", "a", "b", "c"]


def test_bad_json_at_line_337_is_named_with_its_place_and_the_rest_goes_on(producer: Producer) -> None:
    good = [json.dumps({"text": f"line {number}"}) for number in range(1, 401)]
    good[336] = '{"text": "line 337"'
    Path("m.jsonl").write_text("\n".join(good))
    with worker_at_work(producer.database):
        result = run("m.jsonl", "--model", "espeak-ng")

    assert result.exit_code == 3
    assert "m.jsonl:337:20: this is not JSON" in result.stderr
    assert "write one object per line" in result.stderr
    assert len(texts(producer)) == 399


def test_refused_lines_are_named_by_line_and_id(producer: Producer) -> None:
    write(
        {"text": "a", "id": "one"},
        {"text": "", "id": "two"},
        {"text": "b", "id": "one"},
        {"text": "a", "id": "one"},
        {"text": "a", "voice": "nobody"},
    )
    code, answer = submit("m.jsonl", "--model", "espeak-ng", "--detach")

    assert code == 3
    assert [(refusal["line"], refusal["custom_id"]) for refusal in answer["refusals"]] == [
        (2, "two"), (3, "one"), (5, None),
    ]  # fmt: skip
    assert "choose another id" in answer["refusals"][1]["error"]
    assert (answer["new"], answer["known"]) == (1, 1)


def test_when_nothing_succeeds_it_ends_with_1(producer: Producer) -> None:
    write({"text": ""}, {"text": " "})
    assert run("m.jsonl", "--model", "espeak-ng").exit_code == 1
    write({"text": "bad"}, name="n.jsonl")
    with worker_at_work(producer.database, fail={"bad"}):
        result = run("n.jsonl", "--model", "espeak-ng")

    assert result.exit_code == 1
    assert NO in result.stderr
    assert "soundmill batch retry-failed n-" in result.stderr


def test_only_the_first_twenty_failures_are_listed(producer: Producer) -> None:
    write(*({"text": "bad", "id": f"n{number:02}"} for number in range(25)), {"text": "good"})
    with worker_at_work(producer.database, fail={"bad"}):
        result = run("m.jsonl", "--model", "espeak-ng")

    assert result.exit_code == 3
    assert result.stderr.count(NO) == 20
    assert "… and 5 more jobs failed" in result.stderr


def test_an_empty_manifest_is_no_failure(producer: Producer) -> None:
    Path("m.jsonl").write_text("\n\n")
    assert submit("m.jsonl")[0] == 0


def test_a_file_that_is_not_there_is_a_wrong_use(here: Path) -> None:
    assert run("nothing.jsonl").exit_code == 2
    assert run(str(here)).exit_code == 2


def test_options_and_batches_make_different_jobs(producer: Producer) -> None:
    write({"text": "a"})
    base = ("m.jsonl", "--model", "espeak-ng", "--detach", "--set")
    _, slow = submit(*base, "speed=0.5")
    _, quick = submit(*base, "speed=2", "--set", "voice=f2")
    _, named = submit(*base, "speed=2", "--batch", "mine", "--priority", "8")

    rows = rows_of(producer.database)
    assert [row.args["speed"] for row in rows] == [0.5, 2.0, 2.0]
    assert [row.args["voice"] for row in rows] == [None, "f2", None]
    assert [row.priority for row in rows] == [4, 4, 8]
    assert len({slow["batch"], quick["batch"], named["batch"]}) == 3
    assert run(*base, "speed").exit_code == 2


def test_audio_is_found_beside_the_manifest_and_nowhere_above(producer: Producer, here: Path) -> None:
    (here / "data" / "clips").mkdir(parents=True)
    write_tone(here / "data" / "clips" / "a.wav")
    os.chdir(here / "state")
    write_tone(here / "outside.wav")
    Path(here / "data" / "m.jsonl").write_text(
        lines({"audio": "clips/a.wav"}, {"audio": "../outside.wav"}, {"audio": "clips/b.wav"})
    )
    code, answer = submit(str(here / "data" / "m.jsonl"), "--model", "acoustic", "--detach")

    assert code == 3
    assert [refusal["line"] for refusal in answer["refusals"]] == [2, 3]
    assert "outside the folders" in answer["refusals"][0]["error"]


def test_changed_audio_under_the_same_name_is_another_job(producer: Producer) -> None:
    write_tone(Path("a.wav"))
    write({"audio": "a.wav"})
    submit("m.jsonl", "--model", "acoustic", "--detach")
    assert submit("m.jsonl", "--model", "acoustic", "--detach")[1]["known"] == 1
    write_tone(Path("a.wav"), hertz=440)
    assert submit("m.jsonl", "--model", "acoustic", "--detach")[1]["new"] == 1


def test_lines_may_read_what_earlier_lines_make(producer: Producer) -> None:
    write(
        {"model": "espeak-ng", "text": "a", "alias": "speech"},
        {"model": "espeak-dtw", "text": "a", "audio": {"job": "@speech"}},
    )
    with worker_at_work(producer.database):
        code, answer = submit("m.jsonl")

    assert (code, answer["jobs"]["completed"]) == (0, 2)
    assert submit("m.jsonl")[1]["known"] == 2


def test_a_dry_run_checks_everything_and_keeps_nothing(producer: Producer) -> None:
    write_tone(Path("a.wav"))
    write(
        {"model": "espeak-ng", "text": "abc", "alias": "s"},
        {"model": "acoustic", "audio": {"job": "@s"}},
        {"model": "acoustic", "audio": {"job": "@t"}},
        {"model": "acoustic", "audio": "a.wav"},
        {"model": "acoustic", "audio": "b.wav"},
    )
    code, answer = submit("m.jsonl", "--dry-run")

    assert code == 3
    assert answer["good"] == {"espeak-ng": 1, "acoustic": 2}
    assert answer["characters"] == 3
    assert [refusal["line"] for refusal in answer["refusals"]] == [3, 5]
    assert rows_of(producer.database) == []
    assert list(producer.blobs.list()) == []


def test_a_batch_that_others_finish_is_followed_to_its_end(producer: Producer) -> None:
    write({"text": "a"})
    submit("m.jsonl", "--model", "espeak-ng", "--detach")
    [row] = rows_of(producer.database)
    finish(producer, row.id, metrics={"audio_s": 2.5})
    _, answer = submit("m.jsonl", "--model", "espeak-ng")

    assert answer["audio_s"] == 2.5


def test_ctrl_c_says_how_to_resume_and_ends_with_130(producer: Producer) -> None:
    write({"text": "a"})
    command = [sys.executable, "-m", "soundmill.producer", "submit", "m.jsonl", "--model", "espeak-ng"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 20
    while not rows_of(producer.database) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "run the same command again to resume" in stderr
    assert "no live worker serves espeak-ng" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""


def test_texts_of_users_are_in_no_log(producer: Producer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    write(
        {"text": "a very private sentence", "id": "x"}, {"text": "a very private sentence", "voice": "none"}
    )
    CliRunner().invoke(build_app(), ["--verbose", "submit", "m.jsonl", "--model", "espeak-ng", "--detach"])

    assert "private" not in caplog.text
