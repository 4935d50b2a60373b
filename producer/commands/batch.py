"""`soundmill batch`: what became of whole batches, decisions about them, and their files."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soundmill.producer import console
from soundmill.producer.export.entry import Shape
from soundmill.producer.invocation import AsJson, open_producer, say_not_served

if TYPE_CHECKING:
    from soundmill.producer.batches import Summary
    from soundmill.producer.export.card import Contents

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of a batch.")]


def commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        help="See what became of batches; cancel, retry or export them.", no_args_is_help=True
    )
    group.command("list")(list_batches)
    group.command()(show)
    group.command()(cancel)
    group.command("retry-failed")(retry_failed)
    group.command()(export)
    app.add_typer(group, name="batch")


def list_batches(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List batches, the newest first."""
    from soundmill.producer import lookup

    with open_producer(context) as producer, producer.database.read() as connection:
        found = lookup.batches(connection, producer.settings.tenant, limit)
    if as_json:
        console.answer_json(
            [{"batch": view.name, "created_at": view.created_at, "jobs": dict(view.counts)} for view in found]
        )
        return
    rows = [
        (view.name, console.clock(view.created_at), view.total, view.unfinished, view.completed,
         view.failed)
        for view in found
    ]  # fmt: skip
    console.table(("batch", "created", ">jobs", ">not final", ">completed", ">failed"), rows)


def show(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show one batch: its counters, hours of audio, models, and failures by error code."""
    from soundmill.producer.batches import summarise

    with open_producer(context) as producer:
        found = summarise(producer, name)
        if as_json:
            console.answer_json(_summary_json(found))
        else:
            _show_summary(found)
        if found.batch.unfinished:
            say_not_served(producer, {model for model, _ in found.models})


def _summary_json(found: Summary) -> dict[str, object]:
    return {
        "batch": found.batch.name,
        "created_at": found.batch.created_at,
        "finished_at": None if found.batch.unfinished else found.finished_at,
        "jobs": dict(found.batch.counts),
        "audio_s": round(found.audio_s, 3),
        "models": [
            {"model": model, "kind": kind, "jobs": count, "revisions": sorted(found.revisions.get(model, ()))}
            for (model, kind), count in sorted(found.models.items())
        ],
        "failures": dict(found.failures.most_common()),
    }


def _show_summary(found: Summary) -> None:
    counts = found.batch.counts
    console.table(
        ("", ""),
        [
            ("batch", found.batch.name),
            ("created", console.clock(found.batch.created_at)),
            ("finished", "not yet" if found.batch.unfinished else console.clock(found.finished_at)),
            ("audio", console.hours(found.audio_s)),
        ],
    )
    console.table([f">{state.value}" for state in counts], [list(counts.values())])
    console.table(
        ("model", "kind", ">jobs", "revisions"),
        [
            (model, kind, count, ", ".join(sorted(found.revisions.get(model, ()))))
            for (model, kind), count in sorted(found.models.items())
        ],
    )
    if found.failures:
        console.table(("error code", ">jobs"), found.failures.most_common())


def cancel(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Cancel all jobs of a batch that are not final; running ones stop within about a second."""
    from soundmill.producer.batches import cancel_batch
    from soundmill.producer.progress import CountLine

    with open_producer(context) as producer, CountLine("cancelled") as line:
        count = cancel_batch(producer, name, line.show)
    if as_json:
        console.answer_json({"cancelled": count})
    else:
        console.answer(f"{count} jobs cancelled")


def retry_failed(
    context: typer.Context,
    name: Name,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Also those that were cancelled.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring back the discarded jobs of a batch, with those that were cancelled because of them."""
    from soundmill.producer import batches
    from soundmill.producer.progress import CountLine
    from soundmill.storage.lifecycle import State

    states = [State.DISCARDED, State.CANCELLED] if cancelled else [State.DISCARDED]
    with open_producer(context) as producer, CountLine("retried") as line:
        back, left = batches.retry_failed(producer, name, states, line.show)
        if back:
            say_not_served(producer, {model for model, _ in batches.summarise(producer, name).models})
    if as_json:
        console.answer_json({"retried": back, "left": left})
    else:
        console.answer(f"{back} jobs retried")
    if left:
        console.say(f"{left} jobs stay as they are: they wait for a job outside of the batch that failed")


def export(
    context: typer.Context,
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")],
    format: Annotated[
        Shape,
        typer.Option(
            metavar="FORMAT",
            help="folder: all files and all that is known of them; audiofolder: a data set of one audio "
            "file per job, made or heard by it; jsonl: no files; acestep: captions, lyrics and audio for the "
            "training of ACE-Step 1.5.",
        ),
    ] = Shape.FOLDER,
    role: Annotated[
        str | None,
        typer.Option(
            help="Only files of this role: audio, words, alignment, textgrid, caption, metrics, input; "
            "default: audio for an audiofolder and acestep, else all but input and metrics."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write what a batch made into a folder; the same command again goes on and adds what is new.

    Files are named after the ids of the jobs, a thousand jobs to a folder, with metadata.jsonl,
    failures.jsonl and a README.md that tells models, licences, languages and hours. Exits with 3 if some
    of the jobs failed or are not final, with 1 if none completed.
    """
    from soundmill.producer.export.exporter import Exporter
    from soundmill.producer.progress import CountLine

    with ExitStack() as closing:
        producer = closing.enter_context(open_producer(context))
        line = closing.enter_context(CountLine("jobs"))
        try:
            found = Exporter(producer, name, folder, shape=format, role=role, seen=line.show).run()
        except KeyboardInterrupt:
            console.say("interrupted; run the same command again to go on")
            raise typer.Exit(130) from None
    _report_export(name, folder, found, as_json=as_json)
    if found.failed or found.unfinished:
        raise typer.Exit(3 if found.completed else 1)


def _report_export(name: str, folder: Path, found: Contents, *, as_json: bool) -> None:
    if as_json:
        console.answer_json(
            {
                "batch": name,
                "folder": str(folder),
                "completed": found.completed,
                "failed": found.failed,
                "unfinished": found.unfinished,
                "without_file": found.missing,
                "copied": found.copied,
                "kept": found.kept,
                "bytes": found.bytes,
                "audio_s": round(found.total_s, 3),
                "warnings": list(found.warnings),
            }
        )
        return
    columns = (">completed", ">failed", ">not final", ">copied", ">there already", ">bytes", ">audio")
    console.table(
        columns,
        [(found.completed, found.failed, found.unfinished, found.copied, found.kept, found.bytes,
          console.hours(found.total_s))],
    )  # fmt: skip
    if found.missing:
        console.say(f"{found.missing} completed jobs have {found.lacked}")
    for words in found.warnings:
        console.say(words)
    if found.failed:
        console.say(f"{found.failed} jobs failed: {folder / 'failures.jsonl'} tells why")
    if found.unfinished:
        console.say(f"{found.unfinished} jobs are not final; run the same command again later to add them")
