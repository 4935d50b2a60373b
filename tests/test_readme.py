"""What the README says is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from soundmill.producer.cli import build_app
from soundmill.storage.settings import Settings

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def _block(heading: str, language: str = "") -> str:
    """The first code block of a language below a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def _commands() -> list[str]:
    lines = (line.split("  #")[0].strip() for line in _block("Use").splitlines())
    return [line for line in lines if line]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "SOUNDMILL_STATE_DIR": str(tmp_path / "state"),
        "SOUNDMILL_FLOWER_PORT": str(port),
        "SOUNDMILL_SHUTDOWN_GRACE_S": "5",
    }


@pytest.fixture
def up(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """`soundmill up` as a person runs it, ended by Ctrl-C; yields the address of Flower."""
    command = _commands()[0]
    assert command == "soundmill up"
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(shlex.split(command), env=environment, cwd=tmp_path, stderr=log)
    found = None
    for _ in range(600):
        found = re.search(r"Flower: (\S+)", (tmp_path / "up.log").read_text())
        if found:
            break
        time.sleep(0.1)
    assert found is not None
    yield found[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


def _run(command: str, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        shlex.split(command),
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _with_an_id(command: str, environment: dict[str, str], folder: Path) -> str:
    if not command.endswith(" ID"):
        return command
    answer = json.loads(_run("soundmill jobs list --json", environment, folder))
    return command.replace("ID", (answer["jobs"] if isinstance(answer, dict) else answer)[0]["id"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_of_the_readme_does_what_it_says(
    up: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "manifest.jsonl").write_text(_block("Use", "json"), encoding="utf-8")
    for command in _commands()[1:]:
        _run(_with_an_id(command, environment, tmp_path), environment, tmp_path)
    assert (tmp_path / "morning.wav").stat().st_size > 10_000
    assert urllib.request.urlopen(f"{up}/healthcheck", timeout=10).status == 200

    script = tmp_path / "snippet.py"
    script.write_text(_block("Use", "python"), encoding="utf-8")
    answer = _run(f"{sys.executable} {script}", environment, tmp_path)
    assert "Good" in answer

    (tmp_path / "morning.wav").rename(tmp_path / "clip.wav")
    script.write_text(_block("Models", "python"), encoding="utf-8")
    assert "duration_s" in _run(f"{sys.executable} {script}", environment, tmp_path)


def test_every_variable_that_the_readme_names_is_a_setting() -> None:
    known = {f"SOUNDMILL_{name.upper()}" for name in Settings.model_fields} | {"SOUNDMILL_CONFIG"}
    assert set(re.findall(r"SOUNDMILL_[A-Z_]+", README)) <= known


def test_every_command_that_the_readme_names_exists() -> None:
    """Also those in running text, with the options that are named beside them."""
    app: Any = typer.main.get_command(build_app())
    inline = re.findall(r"`soundmill ([a-z][^`\n]*)`", README)
    in_blocks = re.findall(r"^soundmill ([a-z][^#\n]*)", README, re.MULTILINE)
    for words in [*inline, *in_blocks]:
        command, rest = app, shlex.split(words)
        while rest and rest[0].split("|")[0] in getattr(command, "commands", {}):
            names = rest.pop(0).split("|")
            assert set(names) <= set(command.commands), words
            command = command.commands[names[0]]
        assert command is not app, words
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word.split("=")[0] for word in rest if word.startswith("--")} <= options, words
