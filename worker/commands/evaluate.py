"""`soundmill evaluate`: verify a model on a card and measure it there, in one document."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import bench

if TYPE_CHECKING:
    from soundmill.models.bench import Plan
    from soundmill.models.bench.plan import Kind
    from soundmill.models.device import Card
    from soundmill.models.verification.verification import Verification
    from soundmill.storage.catalog import Model

KINDS: tuple[Kind, ...] = ("components", "rows", "jobs")
"""What is measured, in this order."""

FORMAT = 1


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="ID", help="The model, such as csm-1b.")],
    device: Annotated[
        str, typer.Option(help="The card to examine, such as npu:0; auto for the best here.")
    ] = "auto",
    against: Annotated[str, typer.Option(help="The card that is believed.")] = "cpu",
    slots: bench.Slots = None,
    frames: bench.Frames = None,
    text: bench.Texts = "short,medium",
    seq_len: bench.SeqLen = 32,
    warmup: bench.Warmup = 1,
    runs: bench.Runs = 3,
    dtype: bench.DtypeOption = None,
    graphs: bench.GraphsOption = None,
    threads: bench.Threads = None,
    limits: Annotated[
        Literal["rounding", "published"],
        typer.Option(help="What verify asks for: that only rounding differs, or just what others publish."),
    ] = "rounding",
    set_: bench.GivenArguments = None,
    audio: bench.Audio = None,
    checkpoint_dir: bench.CheckpointDir = None,
    output: bench.Output = None,
    as_json: bench.AsJson = False,
) -> None:
    """Do all of `verify` and `bench` for a model on one card; exit with 1 unless everything passed."""
    [card] = bench.cards_of([device])
    entry, plan = bench.plan_of(
        model, kind="jobs", random_weights=False, slots=bench.numbers("--slots", slots),
        frames=bench.numbers("--frames", frames), texts=bench.names(text), warmup=warmup, runs=runs,
        seq_len=seq_len, dtype=dtype, graphs=graphs, threads=threads, checkpoint_dir=checkpoint_dir,
    )  # fmt: skip
    with bench.refusing(), tempfile.TemporaryDirectory(prefix="soundmill-evaluate-") as name:
        folder = Path(name)
        plan = bench.with_jobs(plan, entry, set_ or (), audio, folder)
        _bind(card, against)
        verification = _verify(plan, card, against, limits, audio, folder)
        document = _document(plan, verification, _measured(plan, entry, card))
    if as_json:
        typer.echo(bench.as_text(document))
    else:
        _show(document, verification)
    bench.keep(document, output)
    if not document["ok"]:
        raise typer.Exit(1)


def _bind(card: Card, against: str) -> None:
    """Let this process see the card alone, unless another one of its kind is asked, too."""
    from soundmill.models.device import prepare_env

    if not against.startswith(card.kind) or against in (card.kind, str(card)):
        prepare_env(card)


def _verify(
    plan: Plan, card: Card, against: str, limits: Any, audio: Path | None, folder: Path
) -> Verification | None:
    """Compare the card with the one that is believed; `None` for a model without weights."""
    from soundmill.models.bench.subject import SUBJECTS
    from soundmill.models.verification.material import gather
    from soundmill.models.verification.verification import Order, verify

    from .verify import seats_of

    if plan.model not in SUBJECTS or plan.checkpoint is None:
        return None
    threads = None if plan.threads is None else str(plan.threads)
    reference, examined = seats_of(against, [str(card)], None, threads)
    order = Order(
        model=plan.model,
        folder=plan.checkpoint,
        reference=reference,
        examined=examined,
        material=gather(folder, audio=audio),
        options=replace(plan.options, slots=None),
        strictness=limits,
    )
    return verify(order, bench.tell)


def _measured(plan: Plan, entry: Model, card: Card) -> list[dict[str, Any]]:
    """A document of each kind; of one that fails, its sentence."""
    from soundmill.models.bench import measure
    from soundmill.models.bench.subject import SUBJECTS
    from soundmill.models.bench.tally import NothingMade
    from soundmill.models.errors import CardFailed, ModelError

    documents: list[dict[str, Any]] = []
    for kind in KINDS if entry.id in SUBJECTS else KINDS[-1:]:
        bench.tell(f"measuring {kind}")
        # The aligner makes as many frames as its clips have.
        frames = () if entry.kind == "align" else plan.frames
        try:
            documents.append(
                measure(replace(plan, kind=kind, frames=frames, device=str(card)), tell=bench.tell)
            )
        except (ModelError, NothingMade) as error:
            documents.append({"kind": kind, "failure": str(error)})
            if isinstance(error, CardFailed):
                break  # whatever this process asks of the card now means nothing
    return documents


def _document(
    plan: Plan, verification: Verification | None, measured: list[dict[str, Any]]
) -> dict[str, Any]:
    whole = all("failure" not in one and not bench.failed_in_part(one) for one in measured)
    return {
        "soundmill": "evaluate",
        "format": FORMAT,
        "model": plan.model,
        "ok": whole and (verification is None or verification.ok),
        "verify": None if verification is None else verification.as_json(),
        "bench": measured,
    }


def _show(document: Mapping[str, Any], verification: Verification | None) -> None:
    from soundmill.models.bench.summary import summary

    from .verify import show

    if verification is not None:
        show(verification)
        sys.stdout.flush()
    for one in document["bench"]:
        lines = [f"{one['kind']}: {one['failure']}"] if "failure" in one else summary(one)
        for line in ["", *lines]:
            typer.echo(line)
    typer.echo(f"\n{document['model']}: {'everything passed' if document['ok'] else 'not everything passed'}")
