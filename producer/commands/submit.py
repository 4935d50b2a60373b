"""`soundmill submit`: a manifest of any length; the same command again resumes."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from soundmill.producer import console
from soundmill.producer.invocation import Arguments, AsJson, open_producer, parse_arguments

if TYPE_CHECKING:
    from soundmill.producer.follower import Figures, Follower
    from soundmill.producer.manifest import BadLine, Options
    from soundmill.producer.producer import Producer
    from soundmill.producer.request import Request, Submission

REFUSALS_KEPT = 20
LOOK_EVERY_S = 0.25
RESUME = "run the same command again to resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A line that became no job."""

    line: int
    column: int | None
    custom_id: str | None
    sentence: str


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the lines, in the memory of a few of them."""

    lines: int = 0
    fresh: int = 0
    known: int = 0
    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def refuse(self, refusal: Refusal) -> None:
        self.refused += 1
        if len(self.refusals) < REFUSALS_KEPT:
            self.refusals.append(refusal)

    def refuse_bad(self, bad: BadLine) -> None:
        self.refuse(
            Refusal(line=bad.number, column=bad.column, custom_id=bad.custom_id, sentence=bad.sentence)
        )


def commands(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(submit)


def submit(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.jsonl", exists=True, dir_okay=False, readable=True, help="A job per line."
        ),
    ],
    model: Annotated[str | None, typer.Option(help="The model of lines that name none.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="tts, caption or align: refuse models that do something else.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Name of the batch; default: made of the file and the options.")
    ] = None,
    priority: Annotated[int, typer.Option(min=0, max=9, help="Of lines that name none; 9 is first.")] = 4,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line and submit nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the jobs.")] = False,
    set_: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Submit a JSON Lines file and wait for its jobs; the same command again resumes.

    A line is an object: model, kind, id (or custom_id), priority, alias, timeout_s and delay_s are the
    job's, all other keys are arguments of its model. Paths are relative to the file's folder.
    """
    from soundmill.producer.manifest import Options, batch_name
    from soundmill.storage.errors import StorageUnavailable

    options = Options(model=model, kind=kind, priority=priority, args=parse_arguments(set_))
    name = batch or batch_name(file, options)
    with open_producer(context) as producer, file.open("rb") as source:
        if dry_run:
            _check(producer, source, file, name, options, as_json=as_json)
            return
        try:
            tally, figures, follower = _run(producer, source, file, name, options, detach=detach)
        except StorageUnavailable as error:
            console.fail(f"{error}; {RESUME} (batch {name})")
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            console.say(f"interrupted; {RESUME} (batch {name})")
            raise typer.Exit(130) from None
    _report(file, name, tally, figures, follower, as_json=as_json, detached=detach)
    code = _exit_code(tally, figures)
    if code:
        raise typer.Exit(code)


def _run(
    producer: Producer, source: BinaryIO, file: Path, batch: str, options: Options, *, detach: bool
) -> tuple[Tally, Figures, Follower]:
    """Submit all lines, then follow the batch to its end unless `detach`."""
    from soundmill.producer.follower import Follower
    from soundmill.producer.progress import ProgressLine

    follower, tally = Follower(producer, batch), Tally()
    with ProgressLine() as progress:
        looked_at = 0.0
        for _ in _submit_lines(producer, source, file, batch, options, tally):
            if time.monotonic() > looked_at + LOOK_EVERY_S:
                progress.show(follower.look(), tally.refused, reading=True)
                looked_at = time.monotonic()
        figures = follower.look(to_the_end=True)
        while not detach and figures.final < figures.total:
            progress.show(figures, tally.refused, reading=False)
            time.sleep(LOOK_EVERY_S)
            figures = _look(follower, figures)
    return tally, figures, follower


def _look(follower: Follower, before: Figures) -> Figures:
    """Look again; an outage of the job table is waited out."""
    from soundmill.storage.errors import StorageUnavailable

    try:
        figures = follower.look()
        return follower.look(to_the_end=True) if figures.final == figures.total else figures
    except StorageUnavailable:
        return before


def _submit_lines(
    producer: Producer, source: BinaryIO, file: Path, batch: str, options: Options, tally: Tally
) -> Iterator[None]:
    """Submit the lines chunk by chunk, counting into `tally`; yields after each."""
    from soundmill.producer.manifest import BadLine, LineKeys, read_manifest

    folder = file.absolute().parent
    intake = producer.open_intake(base=folder, roots=[folder])
    pending: deque[tuple[int, str | None]] = deque()
    keys = LineKeys(batch)

    def requests() -> Iterator[Request]:
        for line in read_manifest(source, batch, options):
            tally.lines += 1
            if isinstance(line, BadLine):
                tally.refuse_bad(line)
            else:
                pending.append((line.number, line.request.custom_id))
                yield line.request

    warned: set[str] = set()
    try:
        for chunk in producer.submit_chunks(requests(), intake=intake, key_of=keys):
            for submission in chunk:
                _count(tally, submission, *pending.popleft())
                warning = submission.job.warning if submission.job else None
                if warning is not None and warning not in warned:
                    warned.add(warning)
                    console.say(warning)
            yield
    finally:
        keys.close()


def _count(tally: Tally, submission: Submission, number: int, custom_id: str | None) -> None:
    from soundmill.storage.errors import IdempotencyConflict

    if submission.refusal is None:
        tally.fresh += submission.fresh
        tally.known += not submission.fresh
        return
    sentence = str(submission.refusal)
    if isinstance(submission.refusal, IdempotencyConflict):
        sentence = (
            "id: the batch has a job with this id and other arguments; "
            "choose another id, or submit to another --batch"
        )
    tally.refuse(Refusal(line=number, column=None, custom_id=custom_id, sentence=sentence))


def _check(
    producer: Producer, source: BinaryIO, file: Path, batch: str, options: Options, *, as_json: bool
) -> None:
    """Check every line against the catalogue, its audio too; leave with 3 or 1 if some or all are bad."""
    from soundmill.producer.intake import TrialIntake
    from soundmill.producer.manifest import BadLine, read_manifest
    from soundmill.producer.stream import ALIASES
    from soundmill.storage.errors import SubmitRefused

    tally, models, characters = Tally(), Counter[str](), 0
    aliases: OrderedDict[str, None] = OrderedDict()
    folder = file.absolute().parent
    with TrialIntake.open(producer.settings, base=folder, roots=[folder]) as intake:
        for line in read_manifest(source, batch, options):
            tally.lines += 1
            if isinstance(line, BadLine):
                tally.refuse_bad(line)
                continue
            try:
                draft = producer.check(line.request, intake)
                for alias in draft.aliases:
                    if alias not in aliases:
                        raise SubmitRefused(f"alias: no earlier line has the alias {alias!r}")
            except SubmitRefused as refusal:
                custom_id = line.request.custom_id
                tally.refuse(
                    Refusal(line=line.number, column=None, custom_id=custom_id, sentence=str(refusal))
                )
                continue
            models[draft.model.id] += 1
            characters += len(str(draft.args.get("text") or ""))
            if draft.alias is not None:
                aliases[draft.alias] = None
                if len(aliases) > ALIASES:
                    aliases.popitem(last=False)
    _report_check(file, batch, tally, models, characters, as_json=as_json)
    if tally.refused:
        raise typer.Exit(1 if tally.refused == tally.lines else 3)


def _report_check(
    file: Path, batch: str, tally: Tally, models: Counter[str], characters: int, *, as_json: bool
) -> None:
    if as_json:
        console.answer_json(
            {
                "batch": batch,
                "lines": tally.lines,
                "good": dict(models),
                "characters": characters,
                "refused": tally.refused,
                "refusals": [_refusal_json(file, refusal) for refusal in tally.refusals],
            }
        )
        return
    console.table(("model", ">good lines"), sorted(models.items()))
    console.answer(
        f"{tally.lines} lines, {tally.refused} refused, {characters} characters of text; nothing was submitted"
    )
    _list_refusals(file, tally)


def _report(
    file: Path,
    batch: str,
    tally: Tally,
    figures: Figures,
    follower: Follower,
    *,
    as_json: bool,
    detached: bool,
) -> None:
    from soundmill.storage.lifecycle import State

    if as_json:
        console.answer_json(
            {
                "batch": batch,
                "lines": tally.lines,
                "new": tally.fresh,
                "known": tally.known,
                "refused": tally.refused,
                "jobs": {state.value: figures.counts[state] for state in State},
                "audio_s": round(figures.audio_s, 3),
                "refusals": [_refusal_json(file, refusal) for refusal in tally.refusals],
                "failures": [
                    {"id": job.id, "custom_id": job.custom_id, "state": job.state.value, "error": job.error}
                    for job in follower.failures
                ],
            }
        )
        return
    columns = ("batch", ">lines", ">new", ">known", ">refused", ">completed", ">failed", ">audio")
    completed = figures.counts[State.COMPLETED]
    row = (batch, tally.lines, tally.fresh, tally.known, tally.refused, completed, figures.failed)
    console.table(columns, [(*row, console.seconds(figures.audio_s))])
    _list_refusals(file, tally)
    _list_failures(batch, figures, follower)
    if detached:
        console.answer(f"{figures.total - figures.final} jobs go on; {RESUME} and to wait for them")


def _list_refusals(file: Path, tally: Tally) -> None:
    for refusal in tally.refusals:
        column = "" if refusal.column is None else f":{refusal.column}"
        named = "" if refusal.custom_id is None else f" ({refusal.custom_id})"
        console.fail(f"{file}:{refusal.line}{column}{named}: {refusal.sentence}")
    if tally.refused > len(tally.refusals):
        console.fail(f"… and {tally.refused - len(tally.refusals)} more lines were refused")


def _list_failures(batch: str, figures: Figures, follower: Follower) -> None:
    for job in follower.failures:
        console.fail(f"{job.custom_id or job.id}: {job.error or job.state.value}")
    if figures.failed > len(follower.failures):
        console.fail(f"… and {figures.failed - len(follower.failures)} more jobs failed")
    if figures.failed:
        console.say(f"to try them again: soundmill jobs retry --batch {batch}")


def _refusal_json(file: Path, refusal: Refusal) -> dict[str, Any]:
    return {
        "file": str(file),
        "line": refusal.line,
        "column": refusal.column,
        "custom_id": refusal.custom_id,
        "error": refusal.sentence,
    }


def _exit_code(tally: Tally, figures: Figures) -> int:
    failed = tally.refused + figures.failed
    return 0 if not failed else 3 if figures.total > figures.failed else 1
