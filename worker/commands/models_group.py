"""The group `soundmill models`, which producer and worker both add commands to."""

from __future__ import annotations

import typer

NAME = "models"


def models_group(app: typer.Typer) -> typer.Typer:
    """The group, made if nobody has made it yet."""
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    group = groups.get(NAME)
    if group is None:
        group = typer.Typer(help="Look after the models of this host.", no_args_is_help=True)
        app.add_typer(group, name=NAME)
    return group
