"""Whole batches: shown, cancelled, retried and exported, on SQLite and PostgreSQL."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from soundmill.producer import Producer, Request, batches
from soundmill.producer.cli import build_app
from soundmill.producer.errors import NotSaved
from soundmill.producer.export import exporter
from soundmill.producer.export.entry import Shape
from soundmill.producer.export.exporter import Exporter
from soundmill.storage.attempts import Made
from soundmill.storage.errors import NotFound
from soundmill.storage.lifecycle import State

from .playing import finish, serve, settle_all, statements, take


def submit(producer: Producer, custom_ids: Iterable[str | None], batch: str = "b", **more: Any) -> list[str]:
    requests = (
        Request(model="espeak-ng", args={"text": f"Text {place}.", "language": "de"}, batch=batch,
                custom_id=custom_id, **more)
        for place, custom_id in enumerate(custom_ids)
    )  # fmt: skip
    return [item.job.id for item in producer.submit_many(requests) if item.job is not None]


def complete(producer: Producer, ids: Iterable[str], folder: Path) -> None:
    """Complete jobs, each with audio of its own, words and metrics."""
    for job_id in ids:
        made = []
        for name, role, media_type in [
            ("audio.wav", "audio", "audio/wav"),
            ("words.json", "words", "application/json"),
            ("metrics.json", "metrics", "application/json"),
        ]:
            path = folder / "made"
            path.write_text(f"{name} of {job_id}")
            blob = producer.blobs.put(path)
            made.append(Made(name=name, role=role, sha256=blob.sha256, size=blob.size, media_type=media_type))
        finish(producer, job_id, artifacts=tuple(made), metrics={"audio_s": 1800.0})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def mixed(producer: Producer, tmp_path: Path) -> list[str]:
    """Three completed jobs, one discarded, one cancelled, one that waits."""
    ids = submit(producer, ["one", "Zwei/ü", None, "bad", "off", "late"])
    complete(producer, ids[:3], tmp_path)
    finish(producer, ids[3], state=State.DISCARDED, error="no", error_code="model_error")
    producer.cancel(ids[4])
    return ids


def test_a_summary_counts_states_models_failures_and_audio(producer: Producer, mixed: list[str]) -> None:
    found = batches.summarise(producer, "b")

    assert (found.batch.total, found.batch.completed, found.batch.failed, found.batch.unfinished) == (
        6,
        3,
        2,
        1,
    )
    assert found.audio_s == 5400
    assert found.models == {("espeak-ng", "tts"): 6}
    assert found.failures == {"model_error": 1, "cancelled": 1}
    with pytest.raises(NotFound, match="did you mean 'b'"):
        batches.summarise(producer, "bb")


def test_a_batch_of_somebody_else_is_not_there(producer: Producer, mixed: list[str], tmp_path: Path) -> None:
    with Producer(producer.settings.model_copy(update={"tenant": "other"})) as other:
        for action in (batches.summarise, batches.cancel_batch, batches.retry_failed):
            with pytest.raises(NotFound):
                action(other, "b")
        with pytest.raises(NotFound):
            Exporter(other, "b", tmp_path / "out").run()
    assert not (tmp_path / "out").exists()


def test_cancel_and_retry_go_through_a_batch_page_by_page(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PAGE", 10)
    ids = submit(producer, [None] * 45)
    other = submit(producer, [None], batch="other")
    finish(producer, ids[7])
    settle_all(producer.database, take(producer.database, ids[10:30]), State.DISCARDED, error_code="x")
    seen: list[int] = []

    assert batches.retry_failed(producer, "b", seen=seen.append) == (20, 0)
    assert seen == [10, 20]
    assert batches.cancel_batch(producer, "b") == 44
    assert batches.cancel_batch(producer, "b") == 0
    assert batches.retry_failed(producer, "b") == (0, 0)
    assert batches.retry_failed(producer, "b", [State.DISCARDED, State.CANCELLED]) == (44, 0)
    assert producer.get(ids[7]).state == State.COMPLETED
    assert producer.get(other[0]).state == State.AVAILABLE


def test_retry_leaves_alone_what_waits_for_a_failed_job_elsewhere(producer: Producer) -> None:
    [parent] = submit(producer, [None], batch="elsewhere")
    child = producer.submit(model="espeak-dtw", args={"text": "a", "audio": {"job": parent}}, batch="b").id
    [alone] = submit(producer, [None])
    producer.cancel([parent, alone])

    assert batches.retry_failed(producer, "b", [State.CANCELLED]) == (1, 1)
    assert [producer.get(job).state for job in (child, alone)] == ["cancelled", "available"]
    assert batches.retry_failed(producer, "elsewhere", [State.CANCELLED]) == (1, 0)
    assert producer.get(child).state == State.SCHEDULED


def test_an_export_has_the_files_what_is_known_of_them_the_failures_and_a_card(
    producer: Producer, mixed: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = Exporter(producer, "b", out).run()

    assert (found.completed, found.failed, found.unfinished, found.copied, found.kept) == (3, 2, 1, 6, 0)
    third = mixed[2]
    assert tree(out) == {
        "README.md", "metadata.jsonl", "failures.jsonl",
        *(f"0000/{stem}.{ext}" for stem in ("one", "Zwei_ü", third) for ext in ("wav", "json")),
    }  # fmt: skip
    good = lines_of(out / "metadata.jsonl")
    assert [line["id"] for line in good] == ["one", "Zwei/ü", None]
    assert [file["path"] for file in good[1]["files"]] == ["0000/Zwei_ü.wav", "0000/Zwei_ü.json"]
    assert (out / "0000" / "one.wav").read_text() == f"audio.wav of {mixed[0]}"
    assert {line["error_code"] for line in lines_of(out / "failures.jsonl")} == {"model_error", "cancelled"}
    card = (out / "README.md").read_text()
    for words in ("# b", "3 jobs, 1.50 hours", "espeak-ng", "GPL-3.0-or-later", "| de | 3 |", "  - de",
                  "| model\\_error | 1 |", "1 more were not final"):  # fmt: skip
        assert words in card, words


def test_the_same_export_again_copies_only_what_is_new(
    producer: Producer, mixed: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    Exporter(producer, "b", out).run()
    before = {path: (out / path).stat().st_ino for path in tree(out) if path.startswith("0000")}
    complete(producer, mixed[5:], tmp_path)
    (out / "0000" / "one.wav").write_text("half of it")
    again = Exporter(producer, "b", out).run()

    assert (again.copied, again.kept, again.unfinished) == (3, 5, 0)
    assert (out / "0000" / "one.wav").read_text() == f"audio.wav of {mixed[0]}"
    after = {path: (out / path).stat().st_ino for path in before}
    assert {path for path in before if before[path] != after[path]} == {"0000/one.wav"}
    assert len(lines_of(out / "metadata.jsonl")) == 4


def test_an_audiofolder_has_a_flat_row_and_one_audio_file_for_each_job(
    producer: Producer, mixed: list[str], tmp_path: Path
) -> None:
    Exporter(producer, "b", tmp_path / "out", shape=Shape.AUDIOFOLDER).run()
    rows = lines_of(tmp_path / "out" / "metadata.jsonl")

    assert len({tuple(row) for row in rows}) == 1
    assert not any(isinstance(value, dict | list) for row in rows for value in row.values())
    assert [row["text"] for row in rows] == ["Text 0.", "Text 1.", "Text 2."]
    assert all((tmp_path / "out" / row["file_name"]).suffix == ".wav" for row in rows)
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_role_and_the_form_without_files(producer: Producer, mixed: list[str], tmp_path: Path) -> None:
    words = Exporter(producer, "b", tmp_path / "w", role="words").run()
    nothing = Exporter(producer, "b", tmp_path / "n", role="nothing").run()
    bare = Exporter(producer, "b", tmp_path / "j", shape=Shape.JSONL).run()

    assert {path for path in tree(tmp_path / "w") if "/" in path} == {
        "0000/one.json", "0000/Zwei_ü.json", f"0000/{mixed[2]}.json",
    }  # fmt: skip
    assert (words.missing, nothing.missing, nothing.copied, bare.copied) == (0, 3, 0, 0)
    assert tree(tmp_path / "j") == {"README.md", "metadata.jsonl", "failures.jsonl"}
    assert "path" not in lines_of(tmp_path / "j" / "metadata.jsonl")[0]["files"][0]


def test_jobs_keep_their_folder_whatever_becomes_of_those_before_them(
    producer: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "JOBS_IN_FOLDER", 10)
    ids = submit(producer, [f"n{place:02}" for place in range(25)])
    complete(producer, ids[15:], tmp_path)
    Exporter(producer, "b", tmp_path / "out", role="audio").run()
    complete(producer, ids[:15], tmp_path)
    again = Exporter(producer, "b", tmp_path / "out", role="audio").run()

    assert (again.copied, again.kept) == (15, 10)
    found = {path for path in tree(tmp_path / "out") if "/" in path}
    assert found == {f"{place // 10:04}/n{place:02}.wav" for place in range(25)}


def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    producer: Producer, mixed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, copy, left = tmp_path / "out", shutil.copyfileobj, iter([True, True, False])

    def fill(source: Any, file: Any, size: int) -> None:
        if not next(left):
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, file, size)

    monkeypatch.setattr(shutil, "copyfileobj", fill)
    with pytest.raises(NotSaved, match="No space left on device; free some, then run the same command again"):
        Exporter(producer, "b", out).run()
    assert tree(out) == {"0000/one.wav", "0000/one.json"}
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    again = Exporter(producer, "b", out).run()

    assert (again.copied, again.kept) == (4, 2)


def test_what_a_killed_export_left_is_cleared_and_two_at_once_are_refused(
    producer: Producer, mixed: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "0000").mkdir(parents=True)
    (out / "0000" / ".soundmill-half").write_text("half")
    (out / ".soundmill-half").write_text("half")
    (out / "mine.txt").write_text("mine")
    Exporter(producer, "b", out).run()

    assert not [path for path in tree(out) if ".soundmill-" in path]
    assert (out / "mine.txt").exists()

    def second(_: int) -> None:
        with pytest.raises(NotSaved, match="another export"):
            Exporter(producer, "b", out).run()

    Exporter(producer, "b", out, seen=second).run()


def test_a_file_that_is_gone_makes_a_failure_of_its_job_only(
    producer: Producer, mixed: list[str], tmp_path: Path
) -> None:
    [audio] = [file for file in producer.artifacts(mixed[0]) if file.role == "audio"]
    producer.blobs.delete(audio.sha256)
    found = Exporter(producer, "b", tmp_path / "out").run()

    assert (found.completed, found.failed) == (2, 3)
    assert lines_of(tmp_path / "out" / "failures.jsonl")[0]["error_code"] == "artifact_gone"


def test_a_large_batch_is_read_in_bounded_memory_and_short_transactions(
    small_producer: Producer, tmp_path: Path
) -> None:
    ids = submit(small_producer, (f"n{place}" for place in range(4000)))
    settle_all(small_producer.database, take(small_producer.database, ids[:10]), State.DISCARDED)
    batches.summarise(small_producer, "b")
    tracemalloc.start()
    with statements(small_producer.database) as seen:
        Exporter(small_producer, "b", tmp_path / "out").run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 16_000_000
    assert len(seen) < 4 * 5 + 10


@pytest.fixture
def shell(small_producer: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Producer:
    """A producer on the same state as the commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(small_producer.settings.state_dir))
    return small_producer


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["batch", *arguments])


def answer(*arguments: str, code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def test_the_commands_list_show_cancel_and_retry(shell: Producer) -> None:
    ids = submit(shell, ["one", "two", "three"])
    submit(shell, ["x"], batch="c")
    finish(shell, ids[0], state=State.DISCARDED, error="no", error_code="x", metrics={"audio_s": 1.0})

    assert [view["batch"] for view in answer("list")] == ["c", "b"]
    assert [view["batch"] for view in answer("list", "--limit", "1")] == ["c"]
    shown = answer("show", "b")
    assert (shown["jobs"]["discarded"], shown["failures"], shown["finished_at"]) == (1, {"x": 1}, None)
    table = run("show", "b")
    assert "not yet" in table.stdout
    assert "no live worker serves espeak-ng" in table.stderr
    serve(shell.database, "espeak-ng")
    assert answer("retry-failed", "b") == {"retried": 1, "left": 0}
    assert answer("cancel", "b") == {"cancelled": 3}
    assert answer("retry-failed", "b", "--cancelled") == {"retried": 3, "left": 0}
    result = run("show", "d")
    assert result.exit_code == 1
    assert "there is no batch 'd'" in result.stderr


def test_the_exit_code_of_an_export_tells_whether_jobs_are_missing(shell: Producer, tmp_path: Path) -> None:
    ids = submit(shell, ["one", "two"])
    assert answer("export", "b", "out", code=1)["unfinished"] == 2
    complete(shell, ids[:1], tmp_path)
    assert answer("export", "b", "out", code=3)["copied"] == 2
    finish(shell, ids[1], state=State.DISCARDED, error="no", error_code="x")
    result = run("export", "b", "out")
    assert result.exit_code == 3
    assert "1 jobs failed: out/failures.jsonl tells why" in result.stderr
    shell.retry(ids[1])
    complete(shell, ids[1:], tmp_path)
    assert answer("export", "b", "out")["kept"] == 2
    assert run("export", "b", "out/README.md").exit_code == 1


def test_a_killed_export_goes_on(shell: Producer, tmp_path: Path) -> None:
    ids = submit(shell, [f"n{place}" for place in range(60)])
    complete(shell, ids, tmp_path)
    command = [sys.executable, "-m", "soundmill.producer", "batch", "export", "b", "out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while process.poll() is None and not list(Path("out").rglob("*.wav")):
        pass
    process.kill()
    process.communicate()
    found = answer("export", "b", "out")

    assert found["copied"] + found["kept"] == 120
    assert len(list(Path("out").rglob("*.wav"))) == 60
    assert not [path for path in tree(Path("out")) if ".soundmill-" in path]
