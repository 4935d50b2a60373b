"""The lines of `metadata.jsonl` and `failures.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soundmill.storage.listing import ArtifactView, JobView

ROLE_OF_INPUTS = "input"
ROLE_OF_METRICS = "metrics"
ROLE_OF_AUDIO = "audio"

_WORDS = ("text", "language", "voice")


class Shape(StrEnum):
    """What an export is for. The value is what `--format` takes."""

    FOLDER = "folder"  # every file of every job, and all that is known of it
    AUDIOFOLDER = "audiofolder"  # a data set that `load_dataset("audiofolder")` reads
    JSONL = "jsonl"  # no files
    ACESTEP = "acestep"  # a data set for the training of ACE-Step


def wanted(files: Sequence[ArtifactView], shape: Shape, role: str | None) -> list[ArtifactView]:
    """The files of a job that belong into an export.

    An audio data set has what a job made or, of one that made no audio, what it read.
    """
    if shape in (Shape.AUDIOFOLDER, Shape.ACESTEP):
        roles = [role] if role is not None else [ROLE_OF_AUDIO, ROLE_OF_INPUTS]
        return [file for wanted_role in roles for file in files if file.role == wanted_role][:1]
    if role is not None:
        return [file for file in files if file.role == role]
    return [file for file in files if file.role not in (ROLE_OF_INPUTS, ROLE_OF_METRICS)]


def heard(jobs: Iterable[JobView]) -> dict[str, str]:
    """Of the jobs that heard the audio that another job made, the id of that one, by their own."""
    sources = ((job.id, job.args.get("audio")) for job in jobs)
    return {
        job_id: audio["job"]
        for job_id, audio in sources
        if isinstance(audio, Mapping) and isinstance(audio.get("job"), str)
    }


def described(job: JobView, files: Sequence[tuple[ArtifactView, str | None]]) -> dict[str, Any]:
    """A completed job with all that is known of it; its files with their path, if they have one."""
    return {
        "id": job.custom_id,
        "job": job.id,
        "kind": job.kind,
        "model": job.model,
        "model_revision": job.model_revision,
        "args": job.args,
        "result": job.result,
        "metrics": job.metrics,
        "finished_at": job.finished_at,
        "files": [
            ({} if path is None else {"path": path})
            | {"name": file.name, "role": file.role, "media_type": file.media_type, "bytes": file.size,
               "sha256": file.sha256}
            for file, path in files
        ],
    }  # fmt: skip


def flat(job: JobView, path: str) -> dict[str, Any]:
    """A completed job as a row of a data set: the same columns for every job, and no objects."""
    metrics, result = job.metrics or {}, job.result or {}
    return {
        "file_name": path,
        "id": job.custom_id,
        "job": job.id,
        "kind": job.kind,
        "model": job.model,
        "model_revision": job.model_revision,
        **{name: _text(job.args.get(name)) for name in _WORDS},
        "caption": _text(result.get("caption")),
        "duration_s": metrics.get("audio_s"),
    }


def failed(job: JobView) -> dict[str, Any]:
    """A job that will not complete."""
    return {
        "id": job.custom_id,
        "job": job.id,
        "kind": job.kind,
        "model": job.model,
        "state": job.state.value,
        "error_code": job.error_code,
        "error": job.error,
        "attempts": job.attempt,
        "args": job.args,
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
