"""`soundmill demo`: three linked jobs through everything there is, on this machine alone."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundmill.producer import console
from soundmill.producer.invocation import (
    AsJson,
    failure_of,
    job_json,
    program_name,
    settings_of,
    wait_tending,
)

from .single import read_words, show_words

if TYPE_CHECKING:
    from soundmill.producer.producer import Producer
    from soundmill.producer.request import Request
    from soundmill.storage.listing import JobView
    from soundmill.storage.settings import Settings

# Robert Louis Stevenson, "The Swing" (1885), in the public domain.
TEXT = (
    "How do you like to go up in a swing, up in the air so blue? "
    "Oh, I do think it the pleasantest thing ever a child can do!"
)
MODELS = ("espeak-ng", "espeak-dtw", "acoustic")
SERVICES = ("state_dir", "broker_url", "database_url", "storage_url")
WORDS_SHOWN = 8
METRICS = "metrics.json"


def commands(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--dir", help="A folder for what it makes.")] = Path(
        "soundmill-demo"
    ),
    as_json: AsJson = False,
) -> None:
    """Speak a text, align it and describe it; needs no server, no card and no download."""
    from soundmill.producer.producer import Producer
    from soundmill.producer.stack import Stack

    settings = _settings(context, folder)
    with ExitStack() as closing:
        producer = closing.enter_context(Producer(settings))
        stack = closing.enter_context(Stack(settings, producer.database, MODELS, console.say))
        handles = producer.submit_graph(_requests())
        jobs = wait_tending(producer, [handle.id for handle in handles], stack.tend)
        saved = _save(producer, jobs, folder)
        if as_json:
            console.answer_json(
                {"jobs": [job_json(job) for job in jobs], "files": [str(path) for path in saved]}
            )
        else:
            _show(producer, jobs, saved)
    failed = [job for job in jobs if job.state != "completed"]
    for job in failed:
        console.fail(f"{job.model}: {failure_of(job)}")
    if failed:
        raise typer.Exit(1)
    if not as_json:
        _show_next_steps(settings, folder)


def _settings(context: typer.Context, folder: Path) -> Settings:
    """The settings of this host, or, where none names a service, everything inside the folder."""
    settings = settings_of(context)
    if any(settings.origins[name] != "default" for name in SERVICES):
        return settings
    return settings_of(context, state_dir=(folder / "state").absolute())


def _save(producer: Producer, jobs: list[JobView], folder: Path) -> list[Path]:
    """Write all files into one folder; those that every job has get the model's name in front."""
    from soundmill.producer.saving import safe_name, save_artifact

    saved: list[Path] = []
    for job in jobs:
        for file in producer.artifacts(job.id):
            if file.role != "input":
                name = f"{job.model}.{file.name}" if file.name == METRICS else file.name
                saved.append(folder / safe_name(name))
                save_artifact(producer, job.id, file.name, saved[-1])
    return saved


def _requests() -> list[Request]:
    from soundmill.producer.request import Request

    speech = {"job": "@speech"}
    return [
        Request(alias="speech", model="espeak-ng", kind="tts", args={"text": TEXT}),
        Request(model="espeak-dtw", kind="align", args={"text": TEXT, "audio": speech}),
        Request(model="acoustic", kind="caption", args={"audio": speech}),
    ]


def _show(producer: Producer, jobs: list[JobView], saved: list[Path]) -> None:
    rows = [(job.id, job.kind, job.model, job.state.value, console.seconds(_took(job))) for job in jobs]
    console.table(("job", "kind", "model", "state", ">took"), rows)
    console.table(("file", ">bytes"), [(path, path.stat().st_size) for path in saved])
    _, alignment, description = jobs
    if alignment.state == "completed":
        show_words(read_words(producer, alignment.id, "alignment"), WORDS_SHOWN)
    caption: Any = (description.result or {}).get("caption")
    if caption:
        console.answer(f"{caption}\n")


def _took(job: JobView) -> float | None:
    if job.finished_at is None or job.started_at is None:
        return None
    return job.finished_at - job.started_at


def _show_next_steps(settings: Settings, folder: Path) -> None:
    program = program_name()
    here = f"{program} --state-dir {shlex.quote(str(settings.state_dir))}"
    own = settings.origins["state_dir"] == "flag"
    console.answer("Next:")
    console.answer(f"  {here if own else program} jobs list")
    console.answer(f"  {program} caption {shlex.quote(str(folder / 'audio.wav'))}")
    console.answer(f'  {program} tts "Good morning." -o morning.wav')
    console.answer(f"  {program} up")
