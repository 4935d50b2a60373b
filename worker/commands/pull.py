"""`soundmill models pull`: the weights of a model from a hub into the models folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from .failing import failing
from .models_group import models_group

if TYPE_CHECKING:
    from soundmill.storage.catalog import Model
    from soundmill.storage.settings import Settings
    from soundmill.worker.pulling.pull import Pull, Pulled
    from soundmill.worker.pulling.transfer import Advance


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    models_group(app).command("pull")(pull)


def pull(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="A model of `soundmill models list`.")],
    hub: Annotated[
        str, typer.Option("--from", metavar="HUB", help="huggingface or modelscope.")
    ] = "huggingface",
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit of the main repository. Default: the newest.")
    ] = None,
    repository: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="A copy of the main repository, in place of the published."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Fetch the weights of a model, or what is lacking of them; the same command again goes on."""
    from soundmill.storage.catalog import load_catalog
    from soundmill.storage.repository import HUBS
    from soundmill.storage.settings import load_settings
    from soundmill.worker.pulling.hub import open_hub
    from soundmill.worker.pulling.pull import Pull

    name = next((known for known in HUBS if known == hub), None)
    if name is None:
        raise typer.BadParameter(f"{hub!r} is none of {', '.join(HUBS)}", param_hint="--from")
    settings = load_settings()
    model = load_catalog(settings.plugins).get(model_id)
    with failing():
        work = Pull(
            settings,
            model,
            open_hub(settings, name),
            revision=revision,
            repository=repository,
            say=lambda text: typer.echo(text, err=True),
            begin=_progress,
        )
        with _telling_what_to_do(lambda: _ways_out(settings, model, work)):
            done = work.run()
    _answer(done, as_json=as_json)


def _ways_out(settings: Settings, model: Model, work: Pull) -> Iterable[str]:
    """What is there already, or else how to get the files without this command."""
    from soundmill.storage.checkpoints import Installation
    from soundmill.worker.pulling.by_hand import instructions

    found = Installation.find(settings, model)
    if found.state == "installed":
        origin = found.revision or "weights of an unknown revision"
        return (f"{found.folder} has {origin}, which can be served; only this revision was not fetched",)
    return instructions(settings, model, work.folder, work.chosen)


@contextmanager
def _telling_what_to_do(lines: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Where the hub does not help, say behind the error which files to put where."""
    from soundmill.worker.errors import HubRefused, HubUnreachable

    try:
        yield
    except (HubRefused, HubUnreachable) as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        for line in lines():
            typer.echo(line, err=True)
        raise typer.Exit(1) from error


@contextmanager
def _progress(total: int) -> Iterator[Advance]:
    """A bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda more: progress.advance(task, more)


def _answer(done: Pulled, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        import json

        told = {
            "folder": str(done.folder),
            "revision": done.record.revision,
            "up_to_date": done.up_to_date,
            "kept": None if done.kept is None else str(done.kept),
            **asdict(done.record),
        }
        typer.echo(json.dumps(told, indent=1))
        return
    typer.echo(f"{done.folder} has {done.record.revision}" + (", as before" if done.up_to_date else ""))
    if done.kept is not None:
        typer.echo(f"files that were in the way are kept in {done.kept}", err=True)
