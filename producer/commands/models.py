"""`soundmill models`: what can be asked for, and under which licence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from soundmill.producer import console
from soundmill.producer.invocation import AsJson, settings_of

if TYPE_CHECKING:
    from soundmill.storage.catalog import Model

LANGUAGES_SHOWN = 8


def commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="See the models and their licences.", no_args_is_help=True)
    group.command("list")(list_models)
    app.add_typer(group, name="models")


def list_models(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help="Only models of this kind: tts, caption or align.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models that jobs can name: what they do, and the licence of their weights."""
    from soundmill.storage.catalog import load_catalog

    models = [model for model in load_catalog(settings_of(context).plugins) if kind in (None, model.kind)]
    if as_json:
        console.answer_json(
            [
                {
                    "id": model.id,
                    "kind": model.kind,
                    "title": model.title,
                    "licence": model.licence,
                    "languages": list(model.languages),
                    "sample_rate_hz": model.sample_rate_hz,
                }
                for model in models
            ]
        )
        return
    rows = [
        (model.id, model.kind, model.licence, _languages(model), model.sample_rate_hz, model.title)
        for model in models
    ]
    console.table(("id", "kind", "licence", "languages", ">Hz", "what"), rows)


def _languages(model: Model) -> str:
    few = " ".join(model.languages[:LANGUAGES_SHOWN])
    more = len(model.languages) - LANGUAGES_SHOWN
    return f"{few} and {more} more" if more > 0 else few
