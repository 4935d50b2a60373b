"""`soundmill models list`, and `soundmill jobs show ID --plot`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from soundmill.producer import Producer, plotting
from soundmill.producer.cli import build_app
from soundmill.storage.attempts import Made
from soundmill.storage.catalog import load_catalog

from .playing import finish, write_tone

PNG = b"\x89PNG\r\n\x1a\n"
ALIGNMENT = {
    "model": "espeak-dtw", "granularity": "word", "frame_step_s": 0.01, "score_convention": "", "duration_s": 1.0,
    "words": [
        {"text": "hello", "start_s": 0.2, "end_s": 0.8, "score": 0.9, "aligned": True, "char_start": 0, "char_end": 5}
    ],
}  # fmt: skip


@pytest.fixture
def producer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(tmp_path / "state"))
    with Producer() as opened:
        yield opened


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), list(arguments))


def made(producer: Producer, folder: Path, name: str, role: str, content: bytes) -> Made:
    (folder / "made").write_bytes(content)
    blob = producer.blobs.put(folder / "made")
    return Made(
        name=name, role=role, sha256=blob.sha256, size=blob.size, media_type="application/octet-stream"
    )


def aligned(producer: Producer, folder: Path, audio: Any, **files: bytes) -> str:
    """An alignment that is done, with its files by role."""
    job = producer.submit(model="espeak-dtw", args={"text": "hello", "audio": audio}).id
    artifacts = tuple(made(producer, folder, f"{role}.x", role, content) for role, content in files.items())
    finish(producer, job, artifacts=artifacts)
    return job


def test_an_alignment_is_drawn_from_its_recording(producer: Producer, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_tone(tmp_path / "tone.wav")
    job = aligned(producer, tmp_path, tmp_path / "tone.wav", alignment=json.dumps(ALIGNMENT).encode())

    shown = run("jobs", "show", job, "--plot")

    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.splitlines()[-1] == f"{job}.png"
    assert (tmp_path / f"{job}.png").read_bytes().startswith(PNG)


def test_an_alignment_of_speech_is_drawn_from_the_audio_of_the_other_job(
    producer: Producer, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    write_tone(tmp_path / "tone.wav")
    speech = producer.submit(model="espeak-ng", args={"text": "hello"}).id
    finish(
        producer,
        speech,
        artifacts=(made(producer, tmp_path, "audio.wav", "audio", (tmp_path / "tone.wav").read_bytes()),),
    )
    job = aligned(producer, tmp_path, {"job": speech}, alignment=json.dumps(ALIGNMENT).encode())

    shown = run("jobs", "show", job, "--plot", "--save", "files", "--json")

    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout)["saved"] == ["files/alignment.x", f"files/{job}.png"]
    assert (tmp_path / "files" / f"{job}.png").read_bytes().startswith(PNG)


def test_the_picture_that_a_job_made_is_taken_as_it_is(producer: Producer, tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav")
    job = aligned(producer, tmp_path, tmp_path / "tone.wav", picture=PNG + b"made by the worker")

    assert run("jobs", "show", job, "--plot").exit_code == 0
    assert (tmp_path / f"{job}.png").read_bytes() == PNG + b"made by the worker"


def test_a_job_without_an_alignment_cannot_be_drawn(producer: Producer, tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav")
    job = aligned(producer, tmp_path, tmp_path / "tone.wav", ctm=b"")

    shown = run("jobs", "show", job, "--plot")

    assert shown.exit_code == 1
    assert "made no alignment.json to draw; align with json or png among the outputs" in shown.stderr


def test_why_it_cannot_be_drawn_is_said_by_the_program_that_draws(
    producer: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tone(tmp_path / "tone.wav")
    job = aligned(producer, tmp_path, tmp_path / "tone.wav", alignment=json.dumps(ALIGNMENT).encode())
    without = "import sys; sys.modules['matplotlib.backends.backend_agg'] = None; from soundmill.models.picture import main; sys.exit(main())"
    monkeypatch.setattr(plotting, "COMMAND", (sys.executable, "-c", without))

    shown = run("jobs", "show", job, "--plot")

    assert shown.exit_code == 1
    assert "pip install 'soundmill[plot]'" in shown.stderr


def test_models_are_listed_with_their_licences() -> None:
    listed = run("models", "list", "--json")
    assert listed.exit_code == 0
    entries = {entry["id"]: entry for entry in json.loads(listed.stdout)}
    assert list(entries) == list(load_catalog().ids())
    assert entries["mms-300m-aligner"]["licence"] == "CC-BY-NC-4.0 (the weights: no commercial use)"
    assert entries["espeak-ng"]["weights"] == "built in"
    assert entries["csm-1b"]["weights"] == "absent"
    table = run("models", "list", "--kind", "align").stdout
    assert "CC-BY-NC-4.0" in table
    assert "mms-300m-aligner" in table
    assert "espeak-ng" not in table


def test_models_are_listed_without_loading_one() -> None:
    code = (
        "import sys; from soundmill.producer.cli import build_app; build_app()(['models', 'list'], standalone_mode=False);"
        "print([name for name in sys.modules if name.startswith(('torch', 'soundmill.models'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
