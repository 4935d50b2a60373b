"""`soundmill jobs`: what became of jobs, and decisions about them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundmill.producer import console
from soundmill.producer.invocation import AsJson, job_json, open_producer, say_not_served

from .prune import prune

if TYPE_CHECKING:
    from soundmill.producer.producer import Producer
    from soundmill.storage.lifecycle import State
    from soundmill.storage.listing import JobView

STATES = "scheduled, available, executing, retryable, completed, cancelled, discarded"
PAGE = 500
ERROR_SHOWN = 60

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of jobs.")]
States = Annotated[
    list[str] | None, typer.Option("--state", help=f"Repeat it or separate by commas: {STATES}.")
]
Batch = Annotated[str | None, typer.Option("--batch", help="The jobs of this batch.")]
Model = Annotated[str | None, typer.Option("--model", help="The jobs of this model.")]


def commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        help="See what became of jobs; cancel, retry, wait for or prune them.", no_args_is_help=True
    )
    group.command("list")(list_jobs)
    for command in (show, cancel, retry, wait, prune):
        group.command()(command)
    app.add_typer(group, name="jobs")


def list_jobs(
    context: typer.Context,
    state: States = None,
    batch: Batch = None,
    model: Model = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    from soundmill.storage.listing import page_of_jobs

    with open_producer(context) as producer, producer.database.read() as connection:
        jobs = page_of_jobs(
            connection,
            tenant=producer.settings.tenant,
            batch=batch,
            states=_states(state),
            model=model,
            limit=limit,
        )
    if as_json:
        console.answer_json([job_json(job) for job in jobs])
        return
    rows = [
        (job.id, job.model, job.state.value, job.attempt, job.batch, job.custom_id, console.clock(job.submitted_at),
         (job.error or "")[:ERROR_SHOWN])
        for job in jobs
    ]  # fmt: skip
    console.table(("id", "model", "state", ">attempt", "batch", "custom id", "submitted", "error"), rows)


def show(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a job.")],
    save: Annotated[Path | None, typer.Option(help="Write its files into this folder.")] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw its alignment into ID.png, there or in this folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one job: its times, attempts and files."""
    from soundmill.producer.plotting import plot_alignment
    from soundmill.producer.saving import save_artifacts

    with open_producer(context) as producer:
        job = producer.get(job_id)
        attempts, artifacts = producer.attempts(job_id), producer.artifacts(job_id)
        saved = [] if save is None else save_artifacts(producer, job_id, save)
        if plot:
            saved.append((save or Path()) / f"{job_id}.png")
            plot_alignment(producer, job_id, saved[-1])
        if as_json:
            console.answer_json(
                job_json(job)
                | {
                    "attempts": [_fields(attempt) for attempt in attempts],
                    "artifacts": [_fields(artifact) for artifact in artifacts],
                    "saved": [str(path) for path in saved],
                }
            )
        else:
            _show_job(job)
            if attempts:
                console.table(
                    (">attempt", "outcome", "card", "worker", "started", ">took", "error code"),
                    [
                        (a.attempt, a.outcome, a.card, a.worker, console.clock(a.started_at),
                         console.seconds(_span(a.started_at, a.finished_at)), a.error_code)
                        for a in attempts
                    ],
                )  # fmt: skip
            if artifacts:
                files = [(a.name, a.role, a.size, a.media_type, a.sha256[:12]) for a in artifacts]
                console.table(("file", "role", ">bytes", "type", "sha256"), files)
            for path in saved:
                console.answer(str(path))
        if not job.state.final:
            say_not_served(producer, [job.model])


def cancel(context: typer.Context, ids: Ids = None, batch: Batch = None, as_json: AsJson = False) -> None:
    """Cancel jobs, or all of a batch that are not final; running ones stop within about a second."""
    unfinished = ("scheduled", "available", "executing", "retryable")
    count = 0
    with open_producer(context) as producer:
        for group in _chosen(producer, ids, batch, unfinished):
            producer.cancel(group)
            count += len(group)
    _answer_count("cancelled", count, as_json=as_json)


def retry(context: typer.Context, ids: Ids = None, batch: Batch = None, as_json: AsJson = False) -> None:
    """Bring back discarded and cancelled jobs, or all discarded ones of a batch."""
    count, models = 0, set[str]()
    with open_producer(context) as producer:
        for group in _chosen(producer, ids, batch, ("discarded",)):
            producer.retry(group)
            count += len(group)
            models.add(producer.get(group[0]).model)
        say_not_served(producer, models)
    _answer_count("retried", count, as_json=as_json)


def wait(
    context: typer.Context,
    ids: Ids = None,
    batch: Batch = None,
    timeout_s: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds at most.")] = None,
    as_json: AsJson = False,
) -> None:
    """Wait until jobs are final; exit with 3 if some did not complete, with 1 if none did."""
    if (not ids) == (batch is None):
        raise typer.BadParameter("give ids of jobs, or --batch")
    found: list[dict[str, Any]] = []
    completed = total = 0
    with open_producer(context) as producer:
        for job in producer.results(ids or None, batch=batch, timeout_s=timeout_s):
            total += 1
            completed += job.state == "completed"
            if as_json:
                found.append(job_json(job))
            else:
                console.answer(f"{job.id} {job.state.value} {job.error or ''}".rstrip())
    if as_json:
        console.answer_json(found)
    if completed < total:
        raise typer.Exit(3 if completed else 1)


def _chosen(
    producer: Producer, ids: list[str] | None, batch: str | None, states: tuple[str, ...]
) -> Iterator[list[str]]:
    """The jobs meant, in groups that fit into one transaction; those of a batch are read as they go."""
    from soundmill.producer.batches import pages

    if (not ids) == (batch is None):
        raise typer.BadParameter("give ids of jobs, or --batch")
    if ids:
        return iter([ids[start : start + PAGE] for start in range(0, len(ids), PAGE)])
    return ([job.id for job in page] for page in pages(producer, batch or "", _states(list(states))))


def _states(given: list[str] | None) -> list[State]:
    from soundmill.storage.lifecycle import State

    names = list(chain.from_iterable(text.split(",") for text in given or ()))
    try:
        return [State(name.strip()) for name in names]
    except ValueError as error:
        raise typer.BadParameter(
            f"there is no such state; there are {STATES}", param_hint="--state"
        ) from error


def _answer_count(word: str, count: int, *, as_json: bool) -> None:
    if as_json:
        console.answer_json({word: count})
    else:
        console.answer(f"{count} jobs {word}")


def _show_job(job: JobView) -> None:
    waited = _span(job.available_at, job.started_at)
    rows: list[tuple[str, object]] = [
        ("id", job.id),
        ("state", job.state.value),
        ("error", job.error),
        ("error code", job.error_code),
        ("model", f"{job.model} ({job.kind})"),
        ("batch", job.batch),
        ("custom id", job.custom_id),
        ("priority", job.priority),
        ("attempt", f"{job.attempt} ({job.failures} of {job.max_failures} failures, {job.crashes} crashes)"),
        ("waits for", f"{job.pending_parents} jobs" if job.pending_parents else None),
        ("progress", None if job.progress is None else f"{job.progress:.0%}"),
        ("submitted", console.clock(job.submitted_at)),
        ("started", console.clock(job.started_at)),
        ("finished", console.clock(job.finished_at)),
        ("pruned", console.clock(job.pruned_at)),
        ("waited", console.seconds(waited)),
        ("took", console.seconds(_span(job.started_at, job.finished_at))),
        ("deadline", console.clock(job.deadline_at)),
        ("worker", job.worker),
        ("arguments", console.short(job.args)),
        ("result", console.short(job.result)),
        ("metrics", console.short(job.metrics, 400)),
    ]
    console.table(("", ""), [(name, value) for name, value in rows if value not in (None, "")])


def _span(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None or end < start else end - start


def _fields(view: Any) -> dict[str, Any]:
    return {name: getattr(view, name) for name in type(view).__dataclass_fields__}
