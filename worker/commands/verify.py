"""`soundmill verify`: whether a card computes what another one does, component by component."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from soundmill.models.place import Dtype, ModelOptions
    from soundmill.models.verification.seats import Seat
    from soundmill.models.verification.verification import Side, Verification
    from soundmill.storage.catalog import Model
    from soundmill.storage.settings import Settings

_COLOURS = {"pass": "green", "fail": "red", "reported": "yellow"}
_PIPED_COLUMNS = 240


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(
    model: Annotated[str, typer.Argument(metavar="ID", help="The model, such as csm-1b.")],
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", help="The card to examine, such as npu:0; repeat it. Default: the best here."
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            help="Cards or kinds to examine in one go, such as npu,cuda,cpu; auto for all kinds that are here."
        ),
    ] = None,
    against: Annotated[str, typer.Option(help="The card that is believed.")] = "cpu",
    threads: Annotated[
        str | None,
        typer.Option(
            help="With how many threads processors compute: 4, or 1,2 for the reference and the others."
        ),
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Audio in place of the fixed one.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="A text in place of the fixed ones.")] = None,
    language: Annotated[str | None, typer.Option(help="Of that text, ISO 639-3, such as eng or cmn.")] = None,
    dtype: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"] | None,
        typer.Option(help="The serving dtype, compared besides fp32. Default: as the settings say, or auto."),
    ] = None,
    limits: Annotated[
        Literal["rounding", "published"],
        typer.Option(help="What is asked for: that only rounding differs, or just what others publish."),
    ] = "rounding",
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="The folder of the weights. Default: as the settings say."
        ),
    ] = None,
    end_to_end: Annotated[bool, typer.Option(help="Try the whole model, too, as a worker runs it.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything random.")] = 0,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write a report; its name ends in .html or .md.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Run one checkpoint on two devices, and compare them component by component and end to end."""
    import json
    from tempfile import TemporaryDirectory

    from soundmill.models.verification.material import gather
    from soundmill.models.verification.report import write_report
    from soundmill.models.verification.verification import Order
    from soundmill.models.verification.verification import verify as run
    from soundmill.storage.catalog import load_catalog
    from soundmill.storage.settings import load_settings

    from .failing import failing

    _check_report(report)
    settings = load_settings()
    entry = load_catalog(settings.plugins).get(model)
    reference, examined = seats_of(against, device, devices, threads)
    with failing():
        options, folder = _weights_of(settings, entry, checkpoint_dir, dtype)
        with TemporaryDirectory(prefix="soundmill-verify-") as scratch:
            material = gather(Path(scratch), text=text, language=language, audio=audio, seed=seed)
            order = Order(
                model=model, folder=folder, reference=reference, examined=examined, material=material,
                options=options, strictness=limits, end_to_end=end_to_end,
            )  # fmt: skip
            verification = run(order, _tell)
    if report is not None:
        write_report(verification, report)
    if as_json:
        typer.echo(json.dumps(verification.as_json(), ensure_ascii=False, indent=1, allow_nan=False))
    else:
        show(verification)
    if not verification.ok:
        raise typer.Exit(1)


def seats_of(
    against: str, device: Sequence[str] | None, devices: str | None, threads: str | None
) -> tuple[Seat, list[Seat]]:
    """Read which cards are the reference and the examined ones, as the command line names them.

    Raises:
        typer.BadParameter: One of them cannot be read.
    """
    from soundmill.models.device import Card
    from soundmill.models.device.installation import best_card
    from soundmill.models.verification.seats import Seat

    if device and devices is not None:
        raise typer.BadParameter("give --device or --devices, not both", param_hint="--devices")
    own, others = _threads(threads)
    if devices == "auto":
        names = _kinds_here()
    else:
        names = (
            [name.strip() for name in devices.split(",") if name.strip()]
            if devices
            else list(device or ["auto"])
        )
    try:
        cards = [best_card() if name == "auto" else Card.parse(name) for name in names]
        reference = best_card() if against == "auto" else Card.parse(against)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from error
    if not cards:
        raise typer.BadParameter("it names no card", param_hint="--devices")
    seats = [_seat(card, others) for card in dict.fromkeys(cards)]
    return Seat(card=str(reference), threads=own if reference.kind == "cpu" else None), seats


def _kinds_here() -> list[str]:
    """The first card of each kind; a kind whose library is broken counts, so that the report says so."""
    from soundmill.models.device.opening import ORDER, cards_of
    from soundmill.models.errors import ModelUnavailable

    found = []
    for kind in ORDER:
        try:
            present = bool(cards_of(kind))
        except ModelUnavailable:
            present = True
        if present:
            found.append(kind)
    return found


def _seat(card: object, threads: int | None) -> Seat:
    from soundmill.models.verification.seats import Seat

    name = str(card)
    return Seat(card=name, threads=threads if name.startswith("cpu") else None)


def _threads(text: str | None) -> tuple[int | None, int | None]:
    """Of the reference and of the examined cards."""
    if text is None:
        return None, None
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"{text!r} is neither a number of threads nor two, such as 1,2", param_hint="--threads"
        )
    return int(parts[0]), int(parts[-1])


def _weights_of(
    settings: Settings, model: Model, given: Path | None, dtype: Dtype | None
) -> tuple[ModelOptions, Path]:
    """The handler's options, and the folder of a checkpoint that is whole as far as its files tell.

    Raises:
        ModelError: There is none.
    """
    from soundmill.models.errors import ModelError

    from ..checkpoint_check import damage_of
    from ..options import needs_weights, options_of

    if not needs_weights(model):
        raise ModelError(
            f"{model.id} has no weights, so there is nothing that a card could compute otherwise"
        )
    options = options_of(settings, model)
    folder = given if given is not None else settings.checkpoint_of(model.id)
    if not folder.is_dir():
        raise ModelError(
            f"its weights are not here: put them into {folder}, fetch them with `soundmill models pull {model.id}`, "
            "or name their folder with --checkpoint-dir"
        )
    damage = damage_of(folder)
    if damage is not None:
        raise ModelError(damage)
    return replace(options, checkpoint=folder, dtype=dtype or options.dtype), folder


def _check_report(path: Path | None) -> None:
    """Refuse before the work what could not be written behind it."""
    from soundmill.models.verification.report import FORMS

    if path is None:
        return
    if path.suffix.lower() not in FORMS:
        raise typer.BadParameter(f"{path} ends in none of {', '.join(FORMS)}", param_hint="--report")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.absolute().parent}", param_hint="--report")


def _tell(words: str) -> None:
    if sys.stderr.isatty():
        typer.echo(words, err=True)


def show(verification: Verification) -> None:
    """Print tables on standard output."""
    from rich.console import Console

    from soundmill.models.verification.table import headline, stamp_rows

    console = Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS, highlight=False)
    columns = (
        "",
        f"reference: {verification.reference.seat}",
        *(str(side.seat) for side in verification.sides),
    )
    _print(console, "what ran", columns, stamp_rows(verification))
    for side in verification.sides:
        _show_side(console, side)
    colour = "green" if verification.ok else "red"
    if verification.reference.failure is not None:
        console.print(verification.reference.failure, style="red", markup=False)
    console.print(headline(verification), style=f"bold {colour}", markup=False)


def _show_side(console: Console, side: Side) -> None:
    from soundmill.models.verification.table import (
        COMPONENT_COLUMNS,
        TRIAL_COLUMNS,
        component_rows,
        trial_rows,
    )

    if side.lines:
        _print(console, f"{side.seat}: components", COMPONENT_COLUMNS, component_rows(side))
    if side.hearings:
        _print(console, f"{side.seat}: end to end (examined / reference)", TRIAL_COLUMNS, trial_rows(side))
    for failed in side.failed:
        console.print(f"{side.seat}: {failed}", style="red", markup=False)


def _print(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    console.print(grid)
