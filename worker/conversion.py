"""`soundmill models convert`: a published pickle becomes safetensors, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

GROUP = "models"


def add_to(app: typer.Typer) -> None:
    """Add the command to the group `models`, which the producer may have made already."""
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    group = groups.get(GROUP)
    if group is None:
        group = typer.Typer(help="Look after the models of this host.", no_args_is_help=True)
        app.add_typer(group, name=GROUP)
    group.command("convert")(convert)


def convert(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A checkpoint whose weights are in pytorch_model.bin.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Write the weights of a pickle beside it as safetensors, which is what workers load."""
    import json
    import subprocess
    import sys

    command = [sys.executable, "-m", "soundmill.models.conversion", str(folder.absolute())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        typer.echo(done.stderr.strip() or f"the conversion ended with status {done.returncode}", err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(done.stdout.strip())
        return
    told = json.loads(done.stdout)
    typer.echo(
        f"{told['file']}: {told['tensors']} tensors, {told['bytes'] / 1e6:.1f} MB"
        + (f"; {len(told['tied'])} tied ones written once" if told["tied"] else "")
    )
