"""`tts`, `caption`, `align` and `demo` with nothing running: they start what they need and leave nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import soundfile
from typer.testing import CliRunner

from soundmill.producer import Producer
from soundmill.producer.cli import build_app
from soundmill.storage.listing import served_models

SOUNDMILL = (sys.executable, "-m", "soundmill.producer")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; whatever runs for it afterwards is an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SOUNDMILL_RUNTIME_DIR", str(tmp_path / "run"))
    yield tmp_path
    until = time.monotonic() + 20
    while (left := running_for(tmp_path)) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []


def running_for(folder: Path) -> list[str]:
    """The processes that work on the folder's state, or in it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(" ".join(process.cmdline()))
    return found


def run(*arguments: str, code: int = 0, text: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*SOUNDMILL, *arguments], capture_output=True, text=True, input=text, timeout=100, check=False
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def services(here: Path) -> Iterator[None]:
    """A broker and a worker that run already."""
    command = [sys.executable, "-m", "soundmill.worker", "up", "--no-flower", "--ephemeral", "--cards", "cpu"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    with Producer() as producer:
        until = time.monotonic() + 60
        while not served(producer) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.1)
    yield
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def served(producer: Producer) -> set[str]:
    with producer.database.read() as connection:
        return served_models(connection, producer.database)


def test_a_text_is_spoken_described_and_aligned_by_the_services_that_run(services: None, here: Path) -> None:
    words = ("-o", "out/a.flac", "--words", "a.json", "--speed", "1.5", "--json")
    spoken = run("tts", "-", *words, text="Good morning.\n")
    assert spoken.stderr == ""
    assert json.loads(spoken.stdout)["files"] == ["out/a.flac", "a.json"]
    sound = soundfile.info("out/a.flac")
    assert (sound.format, sound.samplerate) == ("FLAC", 22050)
    assert [word["text"] for word in json.loads(Path("a.json").read_text())["words"]] == ["Good", "morning."]

    (here / "text.txt").write_text("\ufeffGood morning.", encoding="utf-8")
    aligned = run("align", "out/a.flac", "--text-file", "text.txt", "-o", "aligned")
    assert "morning." in aligned.stdout
    assert Path("aligned/alignment.TextGrid").exists()

    described = run("caption", "out/a.flac")
    assert described.stderr == ""
    assert "seconds of" in described.stdout


def test_a_job_that_fails_is_told_in_a_sentence_and_with_1(services: None) -> None:
    failed = run("tts", "…", code=1)
    assert "finds nothing to say" in failed.stderr
    assert failed.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tts", "Good morning.", "--voice", "nobody"), "has no voice 'nobody'"),
        (("tts", ""), "the text is empty"),
        (("tts", "a", "--model", "acoustic"), "does caption jobs, not tts"),
        (("tts", "a", "-o", "a.xyz"), "give --format"),
        (("tts",), "give either the text or a file"),
        (("tts", "a", "--set", "speed"), "name=value"),
        (("align", "missing.wav", "--text", "a"), "No such file"),
        (("caption", "missing.wav"), "No such file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_started(arguments: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(build_app(), arguments)

    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "nothing is running" not in done.stderr


def test_a_text_that_is_not_utf_8_is_named(here: Path) -> None:
    (here / "latin1.txt").write_bytes("Grüße".encode("latin-1"))
    assert "not UTF-8 (byte 3)" in " ".join(run("tts", "-f", "latin1.txt", code=2).stderr.split())


def test_the_demo_makes_its_files_twice_and_its_hints_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOUNDMILL_STATE_DIR")
    shown = run("demo")
    assert shown.stderr.count("nothing is running here") == 1
    for name in ("audio.wav", "words.json", "alignment.json", "alignment.TextGrid", "caption.txt"):
        assert Path("soundmill-demo", name).stat().st_size > 0
        assert name in shown.stdout
    assert shown.stdout.count("completed") == 3
    hint = next(
        line.split("--state-dir")[1] for line in shown.stdout.splitlines() if line.endswith("jobs list")
    )
    folder = hint.split()[0]
    assert len(json.loads(run("--state-dir", folder, "jobs", "list", "--json").stdout)) == 3

    again = json.loads(run("demo", "--json").stdout)
    assert [job["state"] for job in again["jobs"]] == ["completed"] * 3
    assert all(Path(file).exists() for file in again["files"])


def started(process: subprocess.Popen[str], here: Path) -> None:
    """Wait until the services of the command run."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if any("soundmill.worker.card" in line for line in running_for(here)):
            return
        assert process.poll() is None
        time.sleep(0.05)
    raise AssertionError("the services of the command did not start")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_command_is_killed_or_interrupted(
    here: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [*SOUNDMILL, "tts", "Good morning. " * 2000, "-o", "a.wav"], stderr=subprocess.PIPE, text=True
    )
    started(process, here)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert "Traceback" not in stderr
    if number == signal.SIGINT:
        [job] = json.loads(run("jobs", "list", "--json").stdout)
        assert job["state"] in ("cancelled", "executing") or job["cancel_requested_at"] is not None
