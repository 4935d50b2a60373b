"""`soundmill bench`: how fast a model is on a card, with figures that anybody can repeat."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .failing import failing

if TYPE_CHECKING:
    from soundmill.models.bench import Plan
    from soundmill.models.bench.plan import Kind
    from soundmill.models.device import Card
    from soundmill.storage.catalog import Model

PARTLY_FAILED = 3

Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        help="The card, such as npu:0; repeat it, or separate by commas, for several at once, each in a process "
        "of its own. Default: the best here.",
    ),
]
Slots = Annotated[
    str | None,
    typer.Option(
        help="How many requests at once, such as 1,8,32. Default: 1,8,32 on a card, 1,8 on a processor."
    ),
]
Frames = Annotated[
    str | None,
    typer.Option(
        help="Frames, patches or tokens of each row, such as 32,128,256,512; stops are ignored. Default: 128 on a "
        "card, 16 on a processor."
    ),
]
Texts = Annotated[
    str, typer.Option("--text", help="Of short, medium and long; how long clips are, for models that listen.")
]
Warmup = Annotated[int, typer.Option(min=0, help="Runs that are not counted.")]
Runs = Annotated[int, typer.Option(min=1, help="Runs of each load; medians, least and most are told.")]
DtypeOption = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"] | None,
    typer.Option(help="Of the weights. Default: as the settings say, or auto."),
]
GraphsOption = Annotated[
    Literal["auto", "on", "off"] | None,
    typer.Option(help="Whether steps are captured. Default: as the settings say, or auto."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="With how many a processor computes.")]
SeqLen = Annotated[
    int, typer.Option(min=1, help="Of --components: positions of a prompt and frames of a codec's call.")
]
GivenArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An argument of whole jobs, in JSON or as it stands; repeat it."
    ),
]
Audio = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="A recording for whole jobs of models that listen."),
]
CheckpointDir = Annotated[
    Path | None,
    typer.Option(
        file_okay=False,
        help="The folder of the weights; with --random-weights its config.json gives the sizes. Default: as the "
        "settings say.",
    ),
]
Output = Annotated[Path | None, typer.Option(dir_okay=False, help="Keep the figures there, as JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)


def bench(
    model: Annotated[
        str,
        typer.Argument(metavar="ID", help="The model, such as csm-1b or ming-omni-tts-0.5b:flow_steps=5."),
    ],
    device: Devices = None,
    slots: Slots = None,
    frames: Frames = None,
    text: Texts = "medium",
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Make up the weights, of the published size: no download."),
    ] = False,
    against: Annotated[
        Literal["generate"] | None,
        typer.Option(help="Measure transformers' own generate beside the engine, in turns."),
    ] = None,
    components: Annotated[
        bool,
        typer.Option("--components", help="Measure the parts one by one, on the processor and the card."),
    ] = False,
    seq_len: SeqLen = 32,
    warmup: Warmup = 1,
    runs: Runs = 3,
    dtype: DtypeOption = None,
    graphs: GraphsOption = None,
    threads: Threads = None,
    set_: GivenArguments = None,
    audio: Audio = None,
    checkpoint_dir: CheckpointDir = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on one card or on several.

    With weights, whole jobs are measured, from text to files. With --random-weights or --frames, rows of a fixed
    number of frames are, through the same slots, codec and engine. Runs of which nothing comes out are refused.
    """
    cards = cards_of(device)
    kind = _kind(against, components, rows=random_weights or frames is not None)
    entry, plan = plan_of(
        model, kind=kind, random_weights=random_weights, slots=numbers("--slots", slots),
        frames=numbers("--frames", frames), texts=names(text), warmup=warmup, runs=runs, seq_len=seq_len,
        dtype=dtype, graphs=graphs, threads=threads, checkpoint_dir=checkpoint_dir,
    )  # fmt: skip
    with refusing(), tempfile.TemporaryDirectory(prefix="soundmill-bench-") as folder:
        plan = with_jobs(plan, entry, set_ or (), audio, Path(folder))
        document = measured(plan, cards)
    show(document, as_json=as_json)  # first, so that a full disk loses nothing
    keep(document, output)
    if failed_in_part(document):
        raise typer.Exit(PARTLY_FAILED)


# -- what is asked for -----------------------------------------------------------------------------


def cards_of(given: Sequence[str] | None) -> list[Card]:
    """The cards that are named, each once.

    Raises:
        typer.BadParameter: One is none.
    """
    from soundmill.models.device import Card
    from soundmill.models.device.installation import best_card

    texts = [part for text in given or ["auto"] for part in text.split(",") if part.strip()]
    try:
        found = [best_card() if text.strip() == "auto" else Card.parse(text) for text in texts]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from error
    if not found:
        raise typer.BadParameter("it names no card", param_hint="--device")
    return list(dict.fromkeys(found))


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """Read `1,8,32`.

    Raises:
        typer.BadParameter: A part is no number from 1 on.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 1,8,32", param_hint=option)
    return tuple(dict.fromkeys(map(int, parts)))


def names(text: str) -> tuple[str, ...]:
    """Read `short,medium`.

    Raises:
        typer.BadParameter: There is no text of such a name.
    """
    from soundmill.models.bench.texts import TEXTS

    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts or not set(parts) <= TEXTS.keys():
        raise typer.BadParameter(f"{text!r} is no list of {', '.join(TEXTS)}", param_hint="--text")
    return parts


def _kind(against: str | None, components: bool, *, rows: bool) -> Kind:
    if against is not None and components:
        raise typer.BadParameter("--against and --components are two measurements; choose one")
    if against is not None:
        return "generate"
    if components:
        return "components"
    return "rows" if rows else "jobs"


def plan_of(
    text: str,
    *,
    checkpoint_dir: Path | None,
    slots: tuple[int, ...],
    dtype: Any,
    graphs: Any,
    random_weights: bool,
    **chosen: Any,
) -> tuple[Model, Plan]:
    """The model's entry in the catalogue, and a plan with what the settings and the command line choose.

    Args:
        text: The model's id, with choices behind a colon as for `worker --model`.
        **chosen: Further fields of the plan.
    """
    from soundmill.models.bench import Plan
    from soundmill.storage.catalog import load_catalog
    from soundmill.storage.settings import load_settings

    from ..options import needs_weights, options_of, read_models

    settings = load_settings()
    [name], given, _ = read_models([text], ())
    if given:
        settings = load_settings({"model_options": {**settings.model_options, **given}})
    entry = load_catalog(settings.plugins).get(name)
    options = options_of(settings, entry)
    folder = checkpoint_dir.absolute() if checkpoint_dir is not None else None
    if folder is None and needs_weights(entry) and not random_weights:
        folder = options.checkpoint
    own = given[name].slots if name in given else None
    return entry, Plan(
        model=entry.id,
        checkpoint=folder,
        random_weights=random_weights,
        slots=slots or ((own,) if own else ()),
        dtype=dtype or options.dtype,
        graphs=graphs or options.graphs,
        reproducible=options.reproducible,
        extra=dict(options.extra),
        **chosen,
    )


def with_jobs(plan: Plan, entry: Model, pairs: Sequence[str], audio: Path | None, folder: Path) -> Plan:
    """The plan with the arguments of its jobs, where it measures jobs.

    Args:
        pairs: Arguments in place of the usual ones, `name=value`.
        audio: A recording for models that listen.
        folder: For made-up recordings.

    Raises:
        ModelError: The weights are not here, or not whole.
    """
    from soundmill.models.bench.session import source_of
    from soundmill.models.errors import ModelUnavailable
    from soundmill.storage.arguments.pairs import read_pairs

    from ..checkpoint_check import damage_of
    from ..options import needs_weights

    if needs_weights(entry):
        source_of(plan)
        if not plan.random_weights and plan.checkpoint is not None:
            if damage := damage_of(plan.checkpoint):
                raise ModelUnavailable(damage)
    if plan.kind != "jobs":
        if pairs or audio:
            raise typer.BadParameter("--set and --audio are of whole jobs; leave out what asks for others")
        return plan
    try:
        given = read_pairs(pairs)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error
    return replace(plan, fields={name: _fields(entry, name, audio, folder) | given for name in plan.texts})


def _fields(entry: Model, text: str, audio: Path | None, folder: Path) -> dict[str, Any]:
    """The arguments of a job of one length, as its kind has them."""
    from soundmill.models.bench.texts import TEXTS, clip_of

    words = {"text": TEXTS[text].words}
    if entry.kind == "tts":
        return words
    clip = {"audio": audio.absolute() if audio is not None else clip_of(text, folder)}
    return clip if entry.kind == "caption" else clip | words | _language(entry)


def _language(entry: Model) -> dict[str, str]:
    """What the texts are written in, where that has to be said."""
    field = entry.arguments.model_fields.get("language")
    return {"language": "eng"} if field is not None and field.is_required() else {}


# -- what is done ----------------------------------------------------------------------------------


def measured(plan: Plan, cards: Sequence[Card]) -> dict[str, Any]:
    """Measure on one card in this process, on several in processes of theirs."""
    from soundmill.models.bench import measure
    from soundmill.models.bench.cards import measure_cards
    from soundmill.models.device import prepare_env

    if len(cards) > 1:
        return measure_cards(plan, cards, tell=tell)
    prepare_env(cards[0])
    return measure(replace(plan, device=str(cards[0])), tell=tell)


@contextmanager
def refusing() -> Iterator[None]:
    """As `failing`, also for a measurement of nothing and for a disk that takes nothing more."""
    from soundmill.models.bench.tally import NothingMade

    try:
        with failing():
            yield
    except NothingMade as error:
        typer.secho(f"nothing is reported: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        typer.secho(f"the disk: {error.strerror or error}{where}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error


def tell(words: str) -> None:
    """Say to a terminal what is being done."""
    if sys.stderr.isatty():
        typer.echo(words, err=True)


# -- what is told ----------------------------------------------------------------------------------


def keep(document: Mapping[str, Any], path: Path | None) -> None:
    """Write a document where it can be compared later."""
    if path is not None:
        with refusing():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(as_text(document) + "\n", encoding="utf-8")


def show(document: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a document as JSON or for people."""
    from soundmill.models.bench.summary import summary

    for line in [as_text(document)] if as_json else summary(document):
        typer.echo(line)


def as_text(document: Mapping[str, Any]) -> str:
    """A document as JSON."""
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)


def failed_in_part(document: Mapping[str, Any]) -> bool:
    """Whether a request or a card failed, or a request gave nothing."""
    from soundmill.models.bench.tally import partly_failed

    if "cards" in document:
        return bool(document["failures"]) or any(map(failed_in_part, document["cards"]))
    return bool(document.get("refused")) or partly_failed(document.get("cells", ()))
