"""`soundmill config`: the settings, and where each came from. Passwords are never shown."""

from __future__ import annotations

from typing import Annotated

import typer

from soundmill.producer import console
from soundmill.producer.invocation import AsJson, settings_of


def commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="See the settings and where they come from.", no_args_is_help=True)
    group.command()(show)
    group.command()(path)
    app.add_typer(group, name="config")


def show(
    context: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Also where each value came from.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every setting."""
    settings = settings_of(context)
    shown, origins = settings.shown(), settings.origins
    if as_json:
        console.answer_json(
            {name: {"value": value, "origin": origins[name]} for name, value in shown.items()}
            if origin
            else shown
        )
        return
    rows = [(name, value, origins[name]) if origin else (name, value) for name, value in shown.items()]
    console.table(("setting", "value", "from") if origin else ("setting", "value"), rows)


def path(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the settings file that is read, if there is one."""
    origins = settings_of(context).origins.values()
    found = sorted({origin.removeprefix("file ") for origin in origins if origin.startswith("file ")})
    if as_json:
        console.answer_json({"path": found[0] if found else None})
    elif found:
        console.answer(found[0])
    else:
        console.say(
            "no settings file sets anything; it may be ./soundmill.toml, or the one that --config names"
        )
