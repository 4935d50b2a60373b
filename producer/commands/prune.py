"""`soundmill jobs prune`: remove jobs that ended long ago."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from soundmill.producer import console
from soundmill.producer.invocation import AsJson, open_producer

if TYPE_CHECKING:
    from soundmill.producer.producer import Producer
    from soundmill.storage.retention import Policy

STATES = ("completed", "discarded", "cancelled")
UNITS_S = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def prune(
    context: typer.Context,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Ended longer ago than this: 12h, 30d, 8w. Else: the setting keep_days."
        ),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state", help=f"Only of this state; repeat it or separate by commas: {', '.join(STATES)}."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would go, and remove nothing.")
    ] = False,
    files: Annotated[
        bool,
        typer.Option("--files", help="Then delete the files that nothing refers to and that are old enough."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove jobs that ended long ago, unless something refers to them."""
    from soundmill.storage.retention import walk

    if dry_run and files:
        raise typer.BadParameter(
            "files that nothing refers to are known after the jobs are gone", param_hint="--files"
        )
    counted = {"jobs": 0, "files": 0, "bytes": 0, "spared": 0}
    with open_producer(context) as producer:
        policy = _policy(producer, older_than, state)
        for page in walk(producer.database, policy, dry_run=dry_run):
            counted = {name: count + getattr(page, name) for name, count in counted.items()}
        deleted = _collect(producer) if files else None
    if as_json:
        console.answer_json(counted | {"dry_run": dry_run} | (deleted or {}))
        return
    word = "would be pruned" if dry_run else "pruned"
    console.answer(
        f"{counted['jobs']} jobs {word}, with {counted['files']} files of {counted['bytes']} bytes at most; "
        f"{counted['spared']} are still needed"
    )
    if deleted is not None:
        console.answer(f"{deleted['deleted_files']} files of {deleted['deleted_bytes']} bytes deleted")


def _policy(producer: Producer, older_than: str | None, states: list[str] | None) -> Policy:
    from soundmill.storage.retention import DAY_S, Policy

    wanted = [name.strip() for text in states or STATES for name in text.split(",")]
    if unknown := [name for name in wanted if name not in STATES]:
        raise typer.BadParameter(
            f"jobs that are {unknown[0]} are not pruned; only those that are {', '.join(STATES)}",
            param_hint="--state",
        )
    if older_than is not None:
        kept = dict.fromkeys(wanted, _seconds(older_than))
    else:
        days = producer.settings.keep_days
        kept = {str(name): kept_days * DAY_S for name, kept_days in days.items() if name in wanted}
        if not kept:
            raise typer.BadParameter(
                "say how old they have to be, such as 30d, or set keep_days", param_hint="--older-than"
            )
    return Policy(kept_s=kept, tenant=producer.settings.tenant)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([hdw])", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time; write 12h, 30d or 8w", param_hint="--older-than")
    return float(match[1]) * UNITS_S[match[2]]


def _collect(producer: Producer) -> dict[str, int]:
    from soundmill.storage.collector import Collector

    settings = producer.settings
    collector = Collector(
        producer.database, producer.blobs, settings.artifact_grace_s, strays=settings.collect_strays
    )
    files = size = 0
    finished = False
    while not finished:
        done = collector.collect(limit=1000)
        files, size, finished = files + done.deleted, size + done.bytes, done.finished
    return {"deleted_files": files, "deleted_bytes": size}
