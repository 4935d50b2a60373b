"""The command line `soundmill`: builds it from the entry points and maps errors to exit codes.

| code | meaning                                                  |
|------|----------------------------------------------------------|
| 0    | all went well                                            |
| 1    | it failed                                                |
| 2    | the command, a setting or the job as submitted is wrong  |
| 3    | some of the jobs failed                                  |
| 130  | interrupted                                              |

Answers go to standard output, everything else to standard error. What is slow to import is imported
by the command that needs it.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import console
from .commands import batch, config, demo, jobs, models, queue, single, submit

GROUP = "soundmill.commands"

# The variables that the options below stand for. Commands of the other packages, and the processes
# that are started for a command, read them.
_VARIABLES = {
    "config": "SOUNDMILL_CONFIG",
    "state_dir": "SOUNDMILL_STATE_DIR",
    "broker_url": "SOUNDMILL_BROKER_URL",
    "database_url": "SOUNDMILL_DATABASE_URL",
}


class Commands(TyperGroup):
    """The group of all commands, where their errors become sentences and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            code = _exit_code(error)
            if code is None:
                raise
            console.fail(str(error))
            raise typer.Exit(code) from error


def main() -> None:
    """Run `soundmill` and exit."""
    build_app()()


def build_app() -> typer.Typer:
    """The application with the commands of every installed package."""
    app = typer.Typer(
        name="soundmill",
        cls=Commands,
        callback=_options,
        no_args_is_help=True,
        # Its tracebacks show local variables, and those hold the user's words.
        pretty_exceptions_enable=False,
    )
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            entry.load()(app)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others still work
            console.fail(
                f"the commands of {entry.name!r} cannot be loaded ({type(error).__name__}: {error}); "
                "install soundmill again, or remove the package that offers them"
            )
    return app


def commands(app: typer.Typer) -> None:
    """Add the producer's commands to the application."""
    for module in (demo, single, submit, jobs, batch, queue, models, config):
        module.commands(app)


def _options(
    context: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings file to read instead of the usual."),
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", metavar="DIR", help="Folder of the job table and artifacts.")
    ] = None,
    broker_url: Annotated[
        str | None, typer.Option("--broker-url", metavar="URL", help="Redis or Valkey.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option("--database-url", metavar="URL", help="The job table: sqlite or postgresql.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell on standard error what is done.")
    ] = False,
) -> None:
    """Submit speech and audio jobs, and see what became of them."""
    given = {
        "config": config_file and config_file.absolute(),
        "state_dir": state_dir and state_dir.absolute(),
        "broker_url": broker_url,
        "database_url": database_url,
    }
    overrides = {name: value for name, value in given.items() if value is not None and name != "config"}
    context.obj = overrides | {"verbose": verbose}
    variables = {_VARIABLES[name]: str(value) for name, value in given.items() if value is not None}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    context.call_on_close(lambda: _restore(before))
    if verbose:
        logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        logging.getLogger("soundmill").setLevel(logging.DEBUG)
    else:
        # The commands say what there is to say in sentences of their own.
        logging.getLogger("soundmill.producer").setLevel(logging.ERROR)


def _restore(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _exit_code(error: Exception) -> int | None:
    """The code of an error that has a sentence for people; `None` for any other."""
    errors = import_module("soundmill.storage.errors")
    own = import_module("soundmill.producer.errors")
    if isinstance(error, errors.SubmitRefused | errors.SettingsError):
        return 2
    if isinstance(error, errors.StorageError | own.ProducerError):
        return 1
    return None
