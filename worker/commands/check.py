"""`soundmill models check`: whether the weights of a model are what its code expects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .models_group import models_group

if TYPE_CHECKING:
    from soundmill.models.finding import Finding


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    models_group(app).command("check")(check)


def check(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="A model of `soundmill models list`.")],
    checkpoint_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Look into this folder, not the model's own.")
    ] = None,
    hashes: Annotated[
        bool, typer.Option(help="Read all files that a pull fetched, and compare their checksums.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Compare a checkpoint with what the code of its model expects; exit with 1 if they differ."""
    from soundmill.storage.catalog import load_catalog
    from soundmill.storage.settings import load_settings
    from soundmill.worker.checkpoint_examination import examine

    settings = load_settings()
    model = load_catalog(settings.plugins).get(model_id)
    folder = settings.checkpoint_of(model.id) if checkpoint_dir is None else checkpoint_dir.absolute()
    findings = list(examine(model, folder, hashes=hashes))
    fine = all(finding.passes for finding in findings)
    if as_json:
        _answer_json(model.id, str(folder), findings, fine=fine)
    else:
        _show(findings)
    if not fine:
        raise typer.Exit(1)


def _answer_json(model: str, folder: str, findings: list[Finding], *, fine: bool) -> None:
    import json
    from dataclasses import asdict

    told = [asdict(finding) | {"passes": finding.passes} for finding in findings]
    typer.echo(json.dumps({"model": model, "folder": folder, "ok": fine, "findings": told}, indent=1))


def _show(findings: list[Finding]) -> None:
    """One line for each finding, its details indented below."""
    for finding in findings:
        mark, colour = ("ok", typer.colors.GREEN) if finding.as_expected else ("differs", typer.colors.RED)
        if finding.passes and not finding.as_expected:
            mark, colour = "note", typer.colors.YELLOW
        typer.echo(f"{typer.style(f'{mark:8}', fg=colour)} {finding.question}: {finding.answer}")
        for line in finding.details:
            typer.echo(f"           {line}")
