"""`soundmill models`: what can be asked for, under which licence, and whether its weights are here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundmill.producer import console
from soundmill.producer.invocation import AsJson, settings_of

if TYPE_CHECKING:
    from soundmill.storage.catalog import Model
    from soundmill.storage.checkpoints import Installation

LANGUAGES_SHOWN = 8


def commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        help="See the models and their licences, fetch and check their weights.", no_args_is_help=True
    )
    group.command("list")(list_models)
    app.add_typer(group, name="models")


def list_models(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help="Only models of this kind: tts, caption or align.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models that jobs can name: their size, the licence of their weights, and where these are."""
    from soundmill.storage.catalog import load_catalog
    from soundmill.storage.checkpoints import Installation

    settings = settings_of(context)
    models = [model for model in load_catalog(settings.plugins) if kind in (None, model.kind)]
    found = [(model, Installation.find(settings, model)) for model in models]
    if as_json:
        console.answer_json([_entry(model, installation) for model, installation in found])
        return
    columns = ("id", "kind", ">parameters", ">memory", ">Hz", "languages", "licence", "weights")
    console.table(columns, [_row(model, installation) for model, installation in found])


def _entry(model: Model, installation: Installation) -> dict[str, Any]:
    return {
        "id": model.id,
        "kind": model.kind,
        "title": model.title,
        "parameters": model.parameters,
        "memory_bytes": model.memory_bytes,
        "sample_rate_hz": model.sample_rate_hz,
        "languages": list(model.languages),
        "more_languages": model.more_languages,
        "licence": model.licence,
        "weights": installation.state,
        "folder": None if installation.folder is None else str(installation.folder),
        "missing": list(installation.missing),
        "revision": installation.revision,
    }


def _row(model: Model, installation: Installation) -> tuple[object, ...]:
    return (
        model.id,
        model.kind,
        _amount(model.parameters, "B", "M"),
        _amount(model.memory_bytes, "GB", "MB"),
        model.sample_rate_hz,
        _languages(model),
        model.licence.partition(" (")[0],
        installation.shown,
    )


def _amount(number: int | None, billions: str, millions: str) -> str | None:
    if number is None:
        return None
    scale, unit = (1e9, billions) if number >= 1e9 else (1e6, millions)
    return f"{number / scale:.1f} {unit}"


def _languages(model: Model) -> str:
    few = " ".join(model.languages[:LANGUAGES_SHOWN])
    more = len(model.languages) - LANGUAGES_SHOWN
    listed = f"{few} and {more} more" if more > 0 else few
    return ", ".join(part for part in (listed, model.more_languages) if part)
