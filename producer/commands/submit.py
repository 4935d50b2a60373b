"""`soundmill submit`: a manifest of any length; the same command again resumes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from soundmill.producer import console
from soundmill.producer.invocation import Arguments, AsJson, open_producer, parse_arguments
from soundmill.producer.manifests.layout import Format
from soundmill.producer.refusals import Refusal, Tally

if TYPE_CHECKING:
    from soundmill.producer.follower import Figures, Follower
    from soundmill.producer.manifest import BadLine, Line, Options
    from soundmill.producer.manifests.layout import Layout
    from soundmill.producer.producer import Producer
    from soundmill.producer.rehearsal import Findings
    from soundmill.producer.request import Request, Submission

LOOK_EVERY_S = 0.25
RESUME = "run the same command again to resume"
FORMATS = ", ".join(Format)

HELP = """Submit a manifest and wait for its jobs; the same command again resumes.

A FOLDER is submitted by the metadata.jsonl, metadata.csv, metadata.tsv,
manifest.jsonl or meta.lst in it. Paths in a manifest are relative to its
folder. A line of our own JSON Lines is an object: model, kind, id (or
custom_id), priority, alias, timeout_s and delay_s are the job's, all other
keys are arguments of its model.

What the other formats give to a job, by its kind:

\b
             tts                        align                   caption
csv, tsv     text                       audio, text             audio
nemo         text                       audio_filepath, text    audio_filepath
audiofolder  text                       file_name, text         file_name
ljspeech     normalised, else raw       wavs/ID.wav, the same   wavs/ID.wav
moss         text; role = reference     role, text              role
seed-tts     text; ref_wav, ref_text    ref_wav, ref_text       ref_wav

lang fills language. Descriptive columns (duration, speaker, gender and the
like) are not used, and the answer names them. Any other column fills the
argument of its name; if the model has none, the line is refused unless --drop
names the column.

Exits with 3 if some lines were refused or some jobs failed, with 1 if all.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest of one invocation."""

    path: Path
    layout: Layout
    batch: str
    options: Options

    @property
    def folder(self) -> Path:
        return self.path.absolute().parent

    def read(self, source: BinaryIO, producer: Producer) -> Iterator[Line | BadLine]:
        from soundmill.producer.manifest import read_manifest

        return read_manifest(source, self.batch, self.options, self.layout, producer.catalog)


def commands(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(help=HELP)(submit)


def submit(
    context: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", exists=True, readable=True, help="A job per line.")
    ],
    model: Annotated[str | None, typer.Option(help="The model of lines that name none.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="tts, caption or align: refuse models that do something else.")
    ] = None,
    format: Annotated[
        Format | None, typer.Option(metavar="FORMAT", help=f"{FORMATS}; default: what the file looks like.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A column that is not used; repeat it.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Name of the batch; default: made of the file and the options.")
    ] = None,
    priority: Annotated[int, typer.Option(min=0, max=9, help="Of lines that name none; 9 is first.")] = 4,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check every line, count jobs and hours, and submit nothing."),
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the jobs.")] = False,
    set_: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Submit a manifest; the text of `--help` is `HELP`."""
    from soundmill.producer.manifest import Options

    options = Options(
        model=model, kind=kind, priority=priority, args=parse_arguments(set_), dropped=frozenset(drop or ())
    )
    manifest = _manifest(path, format, batch, options)
    with open_producer(context) as producer, manifest.path.open("rb") as source:
        if dry_run:
            findings = _rehearse(producer, source, manifest)
            _report_findings(manifest, findings, as_json=as_json)
            code = _refused_code(findings.tally)
        else:
            with _resumable(manifest.batch):
                tally, figures, follower = _run(producer, source, manifest, detach=detach)
            _report(manifest, tally, figures, follower, as_json=as_json, detached=detach)
            code = _exit_code(tally, figures)
    if code:
        raise typer.Exit(code)


def _manifest(path: Path, format: Format | None, batch: str | None, options: Options) -> Manifest:
    from soundmill.producer.manifest import batch_name
    from soundmill.producer.manifests.sniffing import find_manifest, sniff

    file = find_manifest(path)
    layout = sniff(file, format)
    return Manifest(
        path=file, layout=layout, batch=batch or batch_name(file, options, layout.format), options=options
    )


@contextmanager
def _resumable(batch: str) -> Iterator[None]:
    from soundmill.storage.errors import StorageUnavailable

    try:
        yield
    except StorageUnavailable as error:
        console.fail(f"{error}; {RESUME} (batch {batch})")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.say(f"interrupted; {RESUME} (batch {batch})")
        raise typer.Exit(130) from None


def _run(
    producer: Producer, source: BinaryIO, manifest: Manifest, *, detach: bool
) -> tuple[Tally, Figures, Follower]:
    """Submit all lines, then follow the batch to its end unless `detach`."""
    from soundmill.producer.follower import Follower
    from soundmill.producer.progress import ProgressLine

    follower, tally = Follower(producer, manifest.batch), Tally()
    with ProgressLine() as progress:
        looked_at = 0.0
        for _ in _submit_lines(producer, source, manifest, tally):
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


def _submit_lines(producer: Producer, source: BinaryIO, manifest: Manifest, tally: Tally) -> Iterator[None]:
    """Submit the lines chunk by chunk, counting into `tally`; yields after each."""
    from soundmill.producer.manifest import BadLine, LineKeys

    intake = producer.open_intake(base=manifest.folder, roots=[manifest.folder])
    pending: deque[tuple[int, str | None]] = deque()
    keys = LineKeys(manifest.batch)

    def requests() -> Iterator[Request]:
        for line in manifest.read(source, producer):
            tally.lines += 1
            if isinstance(line, BadLine):
                tally.refuse_bad(line)
            else:
                tally.unused |= line.unused
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


def _rehearse(producer: Producer, source: BinaryIO, manifest: Manifest) -> Findings:
    """Check every line against the catalogue, its audio too."""
    from soundmill.producer.intake import TrialIntake
    from soundmill.producer.rehearsal import Rehearsal

    folder = manifest.folder
    with TrialIntake.open(producer.settings, base=folder, roots=[folder]) as intake:
        return Rehearsal(producer, intake).run(manifest.read(source, producer))


def _refused_code(tally: Tally) -> int:
    return 0 if not tally.refused else 1 if tally.refused == tally.lines else 3


def _report_findings(manifest: Manifest, found: Findings, *, as_json: bool) -> None:
    from soundmill.producer.estimate import ASSUMPTION

    if as_json:
        console.answer_json(_findings_json(manifest, found))
        return
    tally, file = found.tally, str(manifest.path)
    console.table(
        ("model", "kind", "language", ">jobs"), [(*key, count) for key, count in sorted(found.jobs.items())]
    )
    console.answer(
        f"{tally.lines} lines ({manifest.layout.format}), {tally.refused} refused, {found.repeated} repeated, "
        f"{found.characters} characters of text; nothing was submitted"
    )
    if found.speech_s:
        console.answer(f"about {console.hours(found.speech_s)} of speech to expect, at {ASSUMPTION}")
    if found.input_s or found.from_jobs:
        more = f", and {found.from_jobs} inputs that other jobs make" if found.from_jobs else ""
        console.answer(f"{console.hours(found.input_s)} of audio to read, decoded and counted{more}")
    for repeat in found.repeats:
        console.say(
            f"{file}:{repeat.line} ({repeat.custom_id}): the same as line {repeat.first}, so no job more"
        )
    _say_unused(tally)
    _list_refusals(manifest, tally)


def _findings_json(manifest: Manifest, found: Findings) -> dict[str, Any]:
    from soundmill.producer.estimate import ASSUMPTION

    tally = found.tally
    return {
        "batch": manifest.batch,
        "format": manifest.layout.format,
        "lines": tally.lines,
        "good": found.models,
        "jobs": [
            {"model": model, "kind": kind, "language": language or None, "jobs": count}
            for (model, kind, language), count in sorted(found.jobs.items())
        ],
        "characters": found.characters,
        "speech_s": round(found.speech_s, 1),
        "speech_assumption": ASSUMPTION,
        "input_s": round(found.input_s, 3),
        "input_of_unknown_length": found.from_jobs,
        "repeated": found.repeated,
        "repeats": [
            {"line": repeat.line, "first": repeat.first, "custom_id": repeat.custom_id}
            for repeat in found.repeats
        ],
        "unused": sorted(tally.unused),
        "refused": tally.refused,
        "refusals": [refusal.as_json(str(manifest.path)) for refusal in tally.refusals],
    }


def _report(
    manifest: Manifest,
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
                "batch": manifest.batch,
                "format": manifest.layout.format,
                "lines": tally.lines,
                "new": tally.fresh,
                "known": tally.known,
                "refused": tally.refused,
                "jobs": {state.value: figures.counts[state] for state in State},
                "audio_s": round(figures.audio_s, 3),
                "unused": sorted(tally.unused),
                "refusals": [refusal.as_json(str(manifest.path)) for refusal in tally.refusals],
                "failures": [
                    {"id": job.id, "custom_id": job.custom_id, "state": job.state.value, "error": job.error}
                    for job in follower.failures
                ],
            }
        )
        return
    columns = ("batch", ">lines", ">new", ">known", ">refused", ">completed", ">failed", ">audio")
    completed = figures.counts[State.COMPLETED]
    row = (manifest.batch, tally.lines, tally.fresh, tally.known, tally.refused, completed, figures.failed)
    console.table(columns, [(*row, console.seconds(figures.audio_s))])
    _say_unused(tally)
    _list_refusals(manifest, tally)
    _list_failures(manifest.batch, figures, follower)
    if detached:
        console.answer(f"{figures.total - figures.final} jobs go on; {RESUME} and to wait for them")


def _say_unused(tally: Tally) -> None:
    if tally.unused:
        console.say(f"columns that were not used: {', '.join(sorted(tally.unused))}")


def _list_refusals(manifest: Manifest, tally: Tally) -> None:
    for refusal in tally.refusals:
        console.fail(refusal.shown(str(manifest.path)))
    if tally.refused > len(tally.refusals):
        console.fail(f"… and {tally.refused - len(tally.refusals)} more lines were refused")


def _list_failures(batch: str, figures: Figures, follower: Follower) -> None:
    for job in follower.failures:
        console.fail(f"{job.custom_id or job.id}: {job.error or job.state.value}")
    if figures.failed > len(follower.failures):
        console.fail(f"… and {figures.failed - len(follower.failures)} more jobs failed")
    if figures.failed:
        console.say(f"to try them again: soundmill batch retry-failed {batch}")


def _exit_code(tally: Tally, figures: Figures) -> int:
    failed = tally.refused + figures.failed
    return 0 if not failed else 3 if figures.total > figures.failed else 1
