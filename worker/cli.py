"""The worker's commands: `up`, `worker`, `doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from soundmill.storage.settings import Settings


def commands(app: typer.Typer) -> None:
    """Add the worker's commands to the application."""
    app.command()(up)
    app.command()(doctor)
    worker_app = typer.Typer(help="Run or drain the workers of this host.", no_args_is_help=False)
    worker_app.callback(invoke_without_command=True)(worker)
    worker_app.command()(drain)
    app.add_typer(worker_app, name="worker")


Cards = Annotated[
    list[str] | None,
    typer.Option(
        "--card", "--cards", help="A card of this host, such as cpu:0; repeat it or separate by commas."
    ),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model to serve; repeat it. Default: all that run here.")
]


def up(
    cards: Cards = None,
    model: Models = None,
    flower: Annotated[bool, typer.Option(help="Run Flower beside the workers.")] = True,
    ephemeral: Annotated[bool, typer.Option(help="Stop when standard input ends.", hidden=True)] = False,
) -> None:
    """Run the local stack: the broker, one worker for each card, and Flower. Ctrl-C stops it."""
    _serve(_settings(), cards, model, flower=flower, ephemeral=ephemeral)


def worker(context: typer.Context, card: Cards = None, model: Models = None) -> None:
    """Run workers on cards of this host."""
    if context.invoked_subcommand is None:
        _serve(_settings(), card, model, flower=False, ephemeral=False)


def drain(
    card: Annotated[str, typer.Argument(help="A card such as cpu:0, or a worker's name such as cpu-0@host.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it take jobs again.")] = False,
) -> None:
    """Let a card finish what it has and take nothing new, until --undo; kept over restarts."""
    from soundmill.storage.database import Database
    from soundmill.storage.decisions import set_draining

    database = Database(_settings().database_url)
    with database.write() as connection:
        names = set_draining(connection, card, draining=not undo)
    typer.echo(f"{', '.join(names)}: {'takes jobs again' if undo else 'takes nothing new'}")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at what a worker on this host needs, and say how to mend what is wrong."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from .doctor import examine

    findings = list(examine(_settings()))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        table = Table("what", "verdict")
        table.add_column("detail", overflow="fold")
        colours = {"ok": "green", "missing": "yellow", "broken": "red"}
        for finding in findings:
            table.add_row(finding.what, f"[{colours[finding.verdict]}]{finding.verdict}", finding.detail)
        Console().print(table)
    if any(finding.verdict == "broken" for finding in findings):
        raise typer.Exit(1)


def _settings() -> Settings:
    # Slow to import, and `soundmill --help` needs none of it.
    from soundmill.storage.settings import load_settings

    return load_settings()


def _serve(
    settings: Settings, cards: list[str] | None, models: list[str] | None, *, flower: bool, ephemeral: bool
) -> None:
    from soundmill.models.device import Card
    from soundmill.storage.catalog import load_catalog

    from .flower import Flower
    from .logs import configure_logging
    from .stack import run_stack

    configure_logging()
    names = [part for text in cards or ["cpu:0"] for part in text.split(",") if part.strip()]
    try:
        chosen = list(dict.fromkeys(Card.parse(name) for name in names))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--card") from error
    catalog = load_catalog(settings.plugins)
    served = [catalog.get(name).id for name in models] if models else list(catalog.ids())

    def announce(page: Flower | None) -> None:
        typer.echo(f"cards {', '.join(map(str, chosen))} serve {', '.join(served)}", err=True)
        if page is not None:
            login = f" (user soundmill, password {page.password})" if page.password else ""
            typer.echo(f"Flower: {page.url}{login}", err=True)

    sys.exit(
        run_stack(
            settings, cards=chosen, models=served, flower=flower, ephemeral=ephemeral, announce=announce
        )
    )
