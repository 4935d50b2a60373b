"""What every command begins with: the settings of this invocation, and a producer on them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console

if TYPE_CHECKING:
    from soundmill.storage.listing import JobView
    from soundmill.storage.settings import Settings

    from .producer import Producer

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]
Arguments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An argument of the model, in JSON or as it stands; repeat it."
    ),
]


def settings_of(context: typer.Context, **more: Any) -> Settings:
    """The settings, those given before the command included.

    Args:
        context: Of the command.
        **more: Settings that win over all others.

    Raises:
        SettingsError: One of them cannot be used.
    """
    from soundmill.storage.settings import load_settings

    given = {name: value for name, value in (context.obj or {}).items() if name != "verbose"}
    return load_settings(given | more)


def open_producer(context: typer.Context, **more: Any) -> Producer:
    """A producer on the settings of this invocation, to be used as a context manager.

    Args:
        context: Of the command.
        **more: Settings that win over all others.
    """
    from .producer import Producer

    return Producer(settings_of(context, **more))


def parse_arguments(pairs: Iterable[str] | None) -> dict[str, Any]:
    """Read `name=value` pairs: a value is JSON if it can be, else a text.

    Raises:
        typer.BadParameter: One has no `=`.
    """
    from soundmill.storage.arguments.pairs import read_pairs

    try:
        return read_pairs(pairs or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error


def program_name() -> str:
    """How this program is called from the shell that started it."""
    if shutil.which("soundmill") is not None:
        return "soundmill"
    script = Path(sys.argv[0])
    if script.name == "soundmill" and script.is_file():
        relative = os.path.relpath(script)
        return shlex.quote(relative if len(relative) < len(str(script)) else str(script))
    return f"{shlex.quote(sys.executable)} -m soundmill.producer"


def wait_tending(producer: Producer, ids: list[str], tend: Callable[[], None]) -> list[JobView]:
    """Wait for jobs, calling `tend` about every second meanwhile."""
    from .errors import WaitTimedOut

    while True:
        try:
            return producer.wait(ids, timeout_s=1.0)
        except WaitTimedOut:
            tend()


def job_json(job: JobView) -> dict[str, Any]:
    """A job as `--json` shows it; times are seconds since 1970."""
    shown = {
        name: getattr(job, name) for name in type(job).__dataclass_fields__ if name not in ("seq", "batch_id")
    }
    return shown | {"state": job.state.value, "batch": job.batch}


def failure_of(job: JobView) -> str:
    """Why a job did not complete, as a sentence."""
    return job.error or f"the job was {job.state.value}"


def say_not_served(producer: Producer, models: Iterable[str]) -> None:
    """A line for models that no live worker serves."""
    from soundmill.storage.listing import served_models

    with producer.database.read() as connection:
        missing = sorted(set(models) - served_models(connection, producer.database))
    if missing:
        console.say(f"no live worker serves {', '.join(missing)} now; start one with: soundmill up")
