"""The worker's commands: `up`, `worker`, `doctor`, and those of `commands/`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .commands import add_to

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
    add_to(app)


Cards = Annotated[
    list[str] | None,
    typer.Option(
        "--card",
        "--cards",
        help="A card of this host, such as cpu:0 or npu:3, or auto for the best; repeat it or separate by commas.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A model to serve, such as csm-1b or csm-1b:slots=8,share=0.5,dtype=bf16; repeat it. "
        "Default: all that run here.",
    ),
]
CheckpointDirs = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint-dir", help="MODEL=FOLDER, or the folder alone where one model is named; repeat it."
    ),
]

MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port", min=0, max=65535,
        help="Serve the metrics of the cards there for a Prometheus, on loopback unless metrics_address is set.",
    ),
]  # fmt: skip


def up(
    cards: Cards = None,
    model: Models = None,
    checkpoint_dir: CheckpointDirs = None,
    metrics_port: MetricsPort = None,
    flower: Annotated[bool, typer.Option(help="Run Flower beside the workers.")] = True,
    ephemeral: Annotated[bool, typer.Option(help="Stop when standard input ends.", hidden=True)] = False,
) -> None:
    """Run the local stack: the broker, one worker for each card, and Flower. Ctrl-C stops it."""
    _serve(cards, model, checkpoint_dir, metrics_port, flower=flower, ephemeral=ephemeral)


def worker(
    context: typer.Context,
    card: Cards = None,
    model: Models = None,
    checkpoint_dir: CheckpointDirs = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Run workers on cards of this host."""
    if context.invoked_subcommand is None:
        _serve(card, model, checkpoint_dir, metrics_port, flower=False, ephemeral=False)


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
        colours = {"ok": "green", "missing": "yellow", "warning": "magenta", "broken": "red"}
        for finding in findings:
            table.add_row(finding.what, f"[{colours[finding.verdict]}]{finding.verdict}", finding.detail)
        Console().print(table)
    if any(finding.verdict == "broken" for finding in findings):
        raise typer.Exit(1)


def _settings() -> Settings:
    # Slow to import, and `soundmill --help` needs none of it.
    from soundmill.storage.settings import load_settings

    return load_settings()


def _settings_with(
    models: list[str], checkpoint_dirs: list[str], metrics_port: int | None
) -> tuple[Settings, list[str]]:
    """The settings with the choices of the command line laid over them, and the models that it names."""
    from soundmill.storage.settings import load_settings

    from .options import read_models

    settings = load_settings()
    named, chosen, folders = read_models(models, checkpoint_dirs)
    given = {
        "model_options": {**settings.model_options, **chosen} if chosen else None,
        "checkpoint_dirs": {**settings.checkpoint_dirs, **folders} if folders else None,
        "metrics_port": metrics_port,
    }
    return load_settings(given), named


def _serve(
    cards: list[str] | None,
    models: list[str] | None,
    checkpoint_dirs: list[str] | None,
    metrics_port: int | None,
    *,
    flower: bool,
    ephemeral: bool,
) -> None:
    from soundmill.models.device import Card
    from soundmill.models.device.installation import best_card
    from soundmill.storage.catalog import load_catalog

    from .flower import Flower
    from .logs import configure_logging
    from .options import served_models
    from .stack import run_stack

    configure_logging()
    settings, named = _settings_with(models or [], checkpoint_dirs or [], metrics_port)
    names = [part for text in cards or ["cpu:0"] for part in text.split(",") if part.strip()]
    try:
        chosen = list(dict.fromkeys(best_card() if name == "auto" else Card.parse(name) for name in names))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--card") from error
    catalog = load_catalog(settings.plugins)
    served = served_models(settings, catalog, named)

    def announce(page: Flower | None) -> None:
        typer.echo(f"cards {', '.join(map(str, chosen))} serve {', '.join(served.models)}", err=True)
        if served.without_weights:
            typer.echo(
                f"no weights here for {', '.join(served.without_weights)}: soundmill models pull MODEL, "
                "or name their folder with --checkpoint-dir MODEL=FOLDER",
                err=True,
            )
        if page is not None:
            login = f" (user soundmill, password {page.password})" if page.password else ""
            typer.echo(f"Flower: {page.url}{login}", err=True)

    sys.exit(
        run_stack(
            settings,
            cards=chosen,
            models=served.models,
            flower=flower,
            ephemeral=ephemeral,
            announce=announce,
        )
    )
