"""`soundmill tts`, `caption` and `align`: one job, its files, and what it needs while it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundmill.producer import console
from soundmill.producer.invocation import (
    Arguments,
    AsJson,
    failure_of,
    job_json,
    open_producer,
    parse_arguments,
    settings_of,
    wait_tending,
)

if TYPE_CHECKING:
    from soundmill.producer.job import Job
    from soundmill.producer.producer import Producer
    from soundmill.storage.catalog import Model
    from soundmill.storage.listing import JobView

FORMATS = {".wav": "wav", ".flac": "flac", ".mp3": "mp3", ".opus": "opus", ".ogg": "opus"}
MAX_TEXT_BYTES = 4 * 1024 * 1024
WORDS_SHOWN = 40

Language = Annotated[str | None, typer.Option("--language", "-l", help="Language code, such as en-us or de.")]
CheckpointDir = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint-dir",
        help="The folder of the model's weights, for the worker that is started for this command.",
    ),
]
AudioFile = Annotated[Path, typer.Argument(metavar="AUDIO", help="WAV, FLAC, MP3, Ogg or AIFF.")]


def commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(tts)
    app.command()(caption)
    app.command()(align)


def tts(
    context: typer.Context,
    text: Annotated[str | None, typer.Argument(help="The text; `-` reads it from standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A UTF-8 file with the text.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the audio goes; the ending chooses the format.")
    ] = Path("speech.wav"),
    words: Annotated[
        Path | None, typer.Option("--words", help="Write the times of the words there, in JSON.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model that speaks.")] = "espeak-ng",
    language: Language = None,
    voice: Annotated[str | None, typer.Option(help="A voice of the model.")] = None,
    speed: Annotated[float | None, typer.Option(help="A factor; 1 is usual.")] = None,
    pitch: Annotated[int | None, typer.Option(help="0 to 99; 50 is usual.")] = None,
    sample_rate: Annotated[int | None, typer.Option(help="Hertz.")] = None,
    format_: Annotated[str | None, typer.Option("--format", help="wav, flac, mp3 or opus.")] = None,
    checkpoint_dir: CheckpointDir = None,
    set_: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Speak a text into an audio file."""
    args = _given(language=language, voice=voice, speed=speed, pitch=pitch, sample_rate=sample_rate)
    args["format"] = format_ or _format_of(out)
    args |= {"text": _text(text, file, "TEXT")} | parse_arguments(set_)

    def finish(producer: Producer, job: JobView) -> list[Path]:
        from soundmill.producer.saving import save_artifact

        files = {item.role: item.name for item in producer.artifacts(job.id)}
        save_artifact(producer, job.id, files["audio"], out)
        if words is not None and "words" in files:
            save_artifact(producer, job.id, files["words"], words)
        return [out, *([words] if words is not None and "words" in files else [])]

    job, saved = _perform(context, model, "tts", args, finish, checkpoint_dir=checkpoint_dir)
    if as_json:
        _answer_json(job, saved)
        return
    audio = (job.result or {}).get("audio", {})
    rows = [(path, console.seconds(audio.get("duration_s")) if path == out else "") for path in saved]
    console.table(("file", ">length"), rows)


def caption(
    context: typer.Context,
    audio: AudioFile,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder for the files that it makes.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model that listens.")] = "acoustic",
    checkpoint_dir: CheckpointDir = None,
    set_: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Describe a clip in words."""
    args = {"audio": audio.absolute()} | parse_arguments(set_)
    job, saved = _perform(context, model, "caption", args, _saver(out), audio, checkpoint_dir=checkpoint_dir)
    if as_json:
        _answer_json(job, saved)
        return
    result = dict(job.result or {})
    console.answer(str(result.pop("caption", console.short(result))))
    _list(saved)


def align(
    context: typer.Context,
    audio: AudioFile,
    text: Annotated[
        str | None, typer.Option("--text", "-t", help="What is said; `-` reads it from standard input.")
    ] = None,
    text_file: Annotated[
        Path | None, typer.Option("--text-file", help="A UTF-8 file with what is said.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A folder for the files: JSON and TextGrid, or those that --set 'outputs=[\"srt\"]' names, of "
            "json, textgrid, textgrid-short, srt, vtt, ass, ctm, tsv, audacity, png.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="The model that aligns.")] = "espeak-dtw",
    language: Language = None,
    checkpoint_dir: CheckpointDir = None,
    set_: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Find when each word of a text is said in a recording."""
    args = _given(language=language) | {"audio": audio.absolute(), "text": _text(text, text_file, "--text")}
    words: list[dict[str, Any]] = []

    def finish(producer: Producer, job: JobView) -> list[Path]:
        words.extend(read_words(producer, job.id, "alignment"))
        return _saver(out)(producer, job)

    args |= parse_arguments(set_)
    job, saved = _perform(context, model, "align", args, finish, audio, checkpoint_dir=checkpoint_dir)
    if as_json:
        _answer_json(job, saved, words=words)
        return
    show_words(words)
    _list(saved)


def read_words(producer: Producer, job_id: str, role: str) -> list[dict[str, Any]]:
    """The words of the job's file of that role; none if it made no such file."""
    for file in producer.artifacts(job_id):
        if file.role == role:
            with producer.open_artifact(job_id, file.name) as stream:
                found = json.load(stream)
            return list(found.get("words", ()))
    return []


def show_words(words: Sequence[dict[str, Any]], limit: int = WORDS_SHOWN) -> None:
    """A table of the first words with their times."""
    rows = [(f"{word['start_s']:.3f}", f"{word['end_s']:.3f}", word["text"]) for word in words[:limit]]
    if len(words) > limit:
        rows.append(("", "", f"… and {len(words) - limit} more"))
    console.table((">from s", ">to s", "word"), rows)


def _perform(
    context: typer.Context,
    model: str,
    kind: str,
    args: dict[str, Any],
    finish: Callable[[Producer, JobView], list[Path]],
    *inputs: Path,
    checkpoint_dir: Path | None,
) -> tuple[JobView, list[Path]]:
    """Submit, wait and save; leave with code 1 if the job did not complete."""
    from soundmill.producer.stack import Stack

    with open_producer(context, **_checkpoint(context, model, checkpoint_dir)) as producer:
        # A file that somebody names on a command line of their own may be read.
        named = [*inputs, *_paths_in(args, producer.catalog.get(model, kind))]
        intake = producer.open_intake(roots=[path.absolute() for path in named])
        job = producer.submit(model=model, kind=kind, args=args, intake=intake)
        try:
            card = "auto" if producer.catalog.get(model).needs == "models" else "cpu"
            with Stack(producer.settings, producer.database, {model}, console.say, card=card) as stack:
                if checkpoint_dir is not None and not stack.started:
                    console.say(f"a worker serves {model} already, from its own checkpoint")
                [done] = wait_tending(producer, [job.id], stack.tend)
        except BaseException:
            _give_up(job)
            raise
        if done.state != "completed":
            console.fail(f"{done.error_code or done.state.value}: {failure_of(done)} (job {done.id})")
            raise typer.Exit(1)
        return done, finish(producer, done)


def _paths_in(args: dict[str, Any], model: Model) -> Iterator[Path]:
    """The files that `--set` gives as audio."""
    from soundmill.storage.audio_fields import audio_in

    for value in audio_in(args, model.audio_fields).values():
        path = value.get("path") if isinstance(value, dict) else value
        if isinstance(path, str) and path and "\x00" not in path:
            yield Path(path)


def _checkpoint(context: typer.Context, model: str, folder: Path | None) -> dict[str, Any]:
    """The setting by which a worker finds the weights."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}", param_hint="--checkpoint-dir")
    return {"checkpoint_dirs": {**settings_of(context).checkpoint_dirs, model: folder.absolute()}}


def _give_up(job: Job) -> None:
    """Nobody waits for the job any more."""
    from soundmill.storage.errors import StorageError

    with suppress(StorageError):
        job.cancel()


def _given(**args: Any) -> dict[str, Any]:
    return {name: value for name, value in args.items() if value is not None}


def _format_of(out: Path) -> str:
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise typer.BadParameter(
            f"{out} ends in none of {', '.join(FORMATS)}; give --format", param_hint="--out"
        )
    return FORMATS[suffix]


def _text(text: str | None, file: Path | None, hint: str) -> str:
    if (text is None) == (file is None):
        raise typer.BadParameter("give either the text or a file with it", param_hint=hint)
    if text is not None and text != "-":
        return text
    try:
        raw = sys.stdin.buffer.read(MAX_TEXT_BYTES + 1) if file is None or str(file) == "-" else _read(file)
        if len(raw) > MAX_TEXT_BYTES:
            raise typer.BadParameter(
                f"the text has more than {MAX_TEXT_BYTES} bytes; split it", param_hint=hint
            )
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint=hint) from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"the text is not UTF-8 (byte {error.start + 1}); convert it, for instance with iconv",
            param_hint=hint,
        ) from error


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(MAX_TEXT_BYTES + 1)


def _saver(out: Path | None) -> Callable[[Producer, JobView], list[Path]]:
    def save(producer: Producer, job: JobView) -> list[Path]:
        from soundmill.producer.saving import save_artifacts

        return [] if out is None else save_artifacts(producer, job.id, out)

    return save


def _answer_json(job: JobView, saved: list[Path], **more: Any) -> None:
    console.answer_json({"job": job_json(job), "files": [str(path) for path in saved], **more})


def _list(saved: list[Path]) -> None:
    for path in saved:
        console.answer(str(path))
