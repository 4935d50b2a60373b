"""The commands that read and decide, the application itself, and its exit codes."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner, Result

from soundmill.producer import Producer, cli, console
from soundmill.producer.cli import build_app
from soundmill.producer.saving import safe_name
from soundmill.storage.arguments import AlignmentFormat
from soundmill.storage.lifecycle import State

from .playing import finish, finish_with_file, serve


@pytest.fixture(autouse=True)
def producer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A producer on the same state as the commands, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(tmp_path / "state"))
    with Producer() as opened:
        yield opened
    logging.getLogger("soundmill.producer").setLevel(logging.NOTSET)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), list(arguments))


def answer(*arguments: str, code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def speech(producer: Producer, text: str = "Good morning.", **more: Any) -> str:
    return producer.submit(model="espeak-ng", args={"text": text}, **more).id


def test_jobs_are_listed_and_filtered(producer: Producer) -> None:
    first = speech(producer, batch="b", custom_id="one")
    second = speech(producer)
    finish(producer, second, state=State.DISCARDED, error="no", error_code="x")

    assert [job["id"] for job in answer("jobs", "list")] == [second, first]
    assert [job["id"] for job in answer("jobs", "list", "--limit", "1")] == [second]
    assert [job["id"] for job in answer("jobs", "list", "--batch", "b")] == [first]
    assert [job["id"] for job in answer("jobs", "list", "--state", "discarded,cancelled")] == [second]
    assert [job["id"] for job in answer("jobs", "list", "--model", "acoustic")] == []
    table = run("jobs", "list").stdout
    assert first in table
    assert "discarded" in table
    assert run("jobs", "list", "--state", "lost").exit_code == 2


def test_a_job_is_shown_with_its_attempts_and_files(producer: Producer, tmp_path: Path) -> None:
    job = speech(producer)
    result = run("jobs", "show", job)
    assert "no live worker serves espeak-ng" in result.stderr
    serve(producer.database, "espeak-ng")
    assert "no live worker" not in run("jobs", "show", job).stderr
    finish_with_file(producer, job, "audio.wav", b"some bytes", tmp_path)

    shown = answer("jobs", "show", job, "--save", "files")
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["completed"]
    assert [artifact["name"] for artifact in shown["artifacts"]] == ["audio.wav"]
    assert Path("files/audio.wav").read_bytes() == b"some bytes"
    assert "audio.wav" in run("jobs", "show", job).stdout
    assert run("jobs", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV").exit_code == 1


def test_jobs_are_cancelled_retried_and_waited_for(producer: Producer) -> None:
    first, second = speech(producer, batch="b"), speech(producer, batch="b")
    assert answer("jobs", "cancel", first) == {"cancelled": 1}
    assert producer.get(first).state == State.CANCELLED
    assert answer("jobs", "retry", first) == {"retried": 1}
    finish(producer, first)
    finish(producer, second, state=State.DISCARDED, error="no", error_code="x")

    assert [job["id"] for job in answer("jobs", "wait", first)] == [first]
    assert len(answer("jobs", "wait", "--batch", "b", code=3)) == 2
    assert len(answer("jobs", "wait", second, code=1)) == 1
    assert answer("jobs", "retry", "--batch", "b") == {"retried": 1}
    assert answer("jobs", "cancel", "--batch", "b") == {"cancelled": 1}
    assert [producer.get(job).state for job in (first, second)] == ["completed", "cancelled"]


def test_decisions_that_cannot_be_made_are_errors_in_a_sentence(producer: Producer) -> None:
    job = speech(producer)

    for arguments, code, words in [
        (("jobs", "cancel", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), 1, "there is no job"),
        (("jobs", "retry", job), 1, "only discarded and cancelled jobs can be retried"),
        (("jobs", "wait", job, "--timeout", "0.1"), 1, "not final in time"),
        (("jobs", "cancel"), 2, "give ids of jobs, or --batch"),
        (("jobs", "cancel", job, "--batch", "b"), 2, "give ids of jobs, or --batch"),
        (("queue", "pause", "espeak-mg"), 2, "did you mean 'espeak-ng'"),
    ]:
        result = run(*arguments)
        assert result.exit_code == code, arguments
        assert words in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""


def test_the_queues_are_shown_paused_and_resumed(producer: Producer) -> None:
    speech(producer)
    assert answer("queue", "pause", "espeak-ng") == {"model": "espeak-ng", "paused": True}
    serve(producer.database, "espeak-ng")
    shown = {queue["model"]: queue for queue in answer("queue", "show")["queues"]}

    assert shown["espeak-ng"] == {
        "model": "espeak-ng", "available": 1, "executing": 0, "window": None, "paused": True, "live_workers": 1,
    }  # fmt: skip
    table = run("queue", "show").stdout
    assert "paused" in table
    assert "broker down" in table
    assert answer("queue", "resume", "espeak-ng")["paused"] is False


def test_settings_are_shown_with_their_origin_and_without_passwords(tmp_path: Path) -> None:
    Path("soundmill.toml").write_text('tenant = "me"\n')
    url = "redis://:secret@localhost/1"
    result = CliRunner().invoke(build_app(), ["--broker-url", url, "config", "show", "--origin", "--json"])
    shown = json.loads(result.stdout)

    assert shown["broker_url"] == {"value": "redis://:***@localhost/1", "origin": "flag"}
    assert shown["tenant"] == {"value": "me", "origin": f"file {tmp_path / 'soundmill.toml'}"}
    assert shown["state_dir"]["origin"] == "environment SOUNDMILL_STATE_DIR"
    assert answer("config", "show")["tenant"] == "me"
    assert answer("config", "path") == {"path": str(tmp_path / "soundmill.toml")}
    assert "secret" not in run("--broker-url", url, "config", "show").stdout


def test_a_settings_file_can_be_named_and_does_not_stay_named(tmp_path: Path) -> None:
    Path("other.toml").write_text('tenant = "other"\n')

    assert '"other"' in run("--config", "other.toml", "config", "show", "--json").stdout
    assert '"other"' not in run("config", "show", "--json").stdout
    result = run("--config", "missing.toml", "config", "show")
    assert result.exit_code == 2
    assert "there is no such file" in result.stderr


def test_a_wrong_setting_ends_with_2_and_an_unreachable_table_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--database-url", "mysql://x/y", "jobs", "list").exit_code == 2
    result = run("--database-url", "postgresql+psycopg://127.0.0.1:1/x", "jobs", "list")
    assert result.exit_code == 1
    assert "the job table did not answer" in result.stderr
    monkeypatch.setenv("SOUNDMILL_LEASE_S", "nine")
    assert run("jobs", "list").exit_code == 2


def test_a_broken_entry_point_is_named_and_the_other_commands_work(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [
        EntryPoint("broken", "soundmill.nothing_like_it:commands", cli.GROUP),
        EntryPoint("producer", "soundmill.producer.cli:commands", cli.GROUP),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: whole)
    said: list[str] = []
    monkeypatch.setattr(console, "fail", said.append)

    assert run("config", "path").exit_code == 0
    assert len(said) == 1
    assert "the commands of 'broken' cannot be loaded (ModuleNotFoundError" in said[0]


def test_an_unforeseen_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    app = build_app()

    @app.command()
    def fail() -> None:
        raise ZeroDivisionError

    result = CliRunner().invoke(app, ["fail"])
    assert isinstance(result.exception, ZeroDivisionError)
    assert isinstance(app, typer.Typer)


def test_the_commands_are_known_without_importing_what_is_slow() -> None:
    code = (
        "import sys, typer; from soundmill.producer.cli import commands; commands(typer.Typer()); "
        "slow = ('sqlalchemy', 'celery', 'redis', 'pydantic', 'numpy', 'soundfile', 'rich.table', 'alembic'); "
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_what_a_terminal_would_obey_is_not_printed(producer: Producer) -> None:
    speech(producer, custom_id="\x1b[31mred [bold]x[/bold]\n\x07")
    table = run("jobs", "list").stdout

    assert "\x1b" not in table
    assert "\x07" not in table
    assert "[bold]x[/bold]" in table


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("audio.wav", "audio.wav"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("/etc/passwd", "_etc_passwd"),
        (".hidden", "hidden"),
        ("a\x00b\nc", "a_b_c"),
        ("ü 語", "ü_語"),
        ("..", "unnamed"),
        ("x" * 500, "x" * 100),
    ],
)
def test_a_file_name_never_leaves_its_folder(given: str, safe: str) -> None:
    assert safe_name(given) == safe


def test_the_help_of_align_names_every_form_of_output() -> None:
    words = CliRunner().invoke(build_app(), ["align", "--help"]).stdout
    unwrapped = re.sub(r"[│\s]+", "", words)

    assert ",".join(get_args(AlignmentFormat)) in unwrapped
