"""`soundmill models convert`: a published pickle becomes safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .failing import failing
from .models_group import models_group


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    models_group(app).command("convert")(convert)


def convert(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A checkpoint whose weights are in pytorch_model.bin.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Write the weights of a pickle beside it as safetensors, which is what workers load."""
    import json

    from soundmill.worker.conversion import convert_apart

    with failing():
        told = convert_apart(folder)
    if as_json:
        typer.echo(json.dumps(told))
        return
    typer.echo(
        f"{told['file']}: {told['tensors']} tensors, {told['bytes'] / 1e6:.1f} MB"
        + (f"; {len(told['tied'])} tied ones written once" if told["tied"] else "")
    )
