"""Drafts: requests that passed the catalogue, with their audio in the blob store.

Everything that can be refused without the job table is refused here, before a transaction begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from soundmill.storage.audio_fields import audio_in, with_audio
from soundmill.storage.catalog import Catalog, Model
from soundmill.storage.errors import InputRefused, SubmitRefused
from soundmill.storage.submission import StoredInput, request_digest

from .job import Job

if TYPE_CHECKING:
    from soundmill.storage.settings import Settings

    from .intake import Intake
    from .request import Request

SILENT_KINDS = frozenset({"caption", "align"})
"""Kinds of jobs that make no audio, so that no job can read it from them."""

_STAND_IN = "0" * 64
_NONE: Mapping[str, Any] = MappingProxyType({})
"""What jobs without audio share: a stream may have millions, and each dict is one more to collect."""

_FORMS = "a path, bytes, {'path': …}, {'bytes': …}, {'url': …}, {'artifact': sha256} or {'job': id}"


@dataclass(slots=True, kw_only=True)  # not frozen, which costs a microsecond for each of millions
class Draft:
    """A request that only the job table can still refuse.

    Attributes:
        args: Every argument given; audio as `{"artifact": sha256}` or `{"job": …}`, an alias as it
            was written.
        digest: What its idempotency key binds; empty for a job that has none.
        inputs: The audio that was stored for it.
        artifacts: Audio fields, by their full names, that name a blob by its hash.
        references: Audio fields that name a job: an id, or `@` and an alias.
    """

    model: Model
    args: Mapping[str, Any]
    digest: str
    inputs: tuple[StoredInput, ...]
    artifacts: Mapping[str, str]
    references: Mapping[str, str]
    alias: str | None
    batch: str
    custom_id: str | None
    idempotency_key: str | None
    priority: int
    delay_s: float
    timeout_s: float | None
    max_failures: int

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases it refers to, without the `@`."""
        return tuple(name[1:] for name in self.references.values() if name.startswith("@"))


@dataclass(frozen=True, slots=True)
class _Audio:
    """One audio argument, sorted by its form."""

    artifact: str | None = None
    job: str | None = None
    path: Path | None = None
    data: bytes | None = None
    url: str | None = None

    def written(self) -> dict[str, str]:
        """As the catalogue reads it; what is not stored yet has a stand-in for its hash."""
        return {"job": self.job} if self.job is not None else {"artifact": self.artifact or _STAND_IN}


def make_draft(
    request: Request, settings: Settings, catalog: Catalog, intake: Intake, *, keyed: bool
) -> Draft:
    """Check a request and store its audio, in this order, so that a refused one stores nothing.

    Args:
        request: What is asked for.
        settings: The limits that hold.
        catalog: The models that can be asked for.
        intake: Where the audio comes from.
        keyed: Whether the job will be given an idempotency key if the request has none.

    Raises:
        SubmitRefused: With the field at fault.
        StorageUnavailable: The audio could not be stored.
    """
    request.check(settings)
    model = catalog.get(request.model, request.kind)
    audio = _audio_of(request, model)
    args = model.parse(_written(request.args, audio))
    inputs = {name: item for name, value in audio.items() if (item := _store(name, value, intake))}
    hashes = {name: {"artifact": item.sha256} for name, item in inputs.items()}
    whole, digest = args.model_dump(mode="json"), ""
    if keyed or request.idempotency_key is not None:
        # Without the defaults, so that a key still fits after a release that adds an argument.
        given = args.model_dump(mode="json", exclude_defaults=True)
        digest = request_digest(model.kind, model.id, with_audio(given, hashes))
    return Draft(
        model=model,
        args=with_audio(whole, hashes) if hashes else whole,
        digest=digest,
        inputs=tuple(inputs.values()),
        artifacts=_named_by(audio, "artifact"),
        references=_named_by(audio, "job"),
        alias=request.alias,
        batch=request.batch,
        custom_id=request.custom_id,
        idempotency_key=request.idempotency_key,
        priority=request.priority,
        delay_s=request.wait_s(),
        timeout_s=request.timeout_s,
        max_failures=request.max_failures or settings.max_failures,
    )


def _audio_of(request: Request, model: Model) -> Mapping[str, _Audio]:
    if not model.audio_fields:
        return _NONE
    return {name: _sort(name, value) for name, value in audio_in(request.args, model.audio_fields).items()}


def _written(args: Mapping[str, Any], audio: Mapping[str, _Audio]) -> Mapping[str, Any]:
    return with_audio(args, {name: value.written() for name, value in audio.items()}) if audio else args


def _named_by(audio: Mapping[str, _Audio], form: Literal["artifact", "job"]) -> Mapping[str, str]:
    """What the audio fields name in that form, by the names of the fields."""
    if not audio:
        return _NONE
    return {name: named for name, value in audio.items() if (named := getattr(value, form)) is not None}


def _sort(name: str, value: Any) -> _Audio:
    if isinstance(value, Job):
        return _Audio(job=value.id)
    if isinstance(value, str | Path):
        return _Audio(path=_path(name, value))
    if isinstance(value, bytes | bytearray | memoryview):
        return _Audio(data=bytes(value))
    if not isinstance(value, Mapping) or len(value) != 1:
        raise SubmitRefused(f"{name}: give the audio as {_FORMS}", field=name)
    [(form, inner)] = value.items()
    if form == "job":
        return _Audio(job=inner.id if isinstance(inner, Job) else _text(f"{name}.job", inner))
    if form == "artifact":
        return _Audio(artifact=_text(f"{name}.artifact", inner))
    if form == "url":
        return _Audio(url=_text(f"{name}.url", inner))
    if form == "path" and isinstance(inner, str | Path):
        return _Audio(path=_path(name, inner))
    if form == "bytes" and isinstance(inner, bytes | bytearray | memoryview):
        return _Audio(data=bytes(inner))
    raise SubmitRefused(f"{name}: give the audio as {_FORMS}", field=name)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise SubmitRefused(f"{name}: give a text", field=name)
    return value


def _path(name: str, value: str | Path) -> Path:
    text = str(value)
    if not text or "\x00" in text:
        raise InputRefused(f"{name}: that is not the path of a file", field=name)
    if text.startswith(("https:", "http:")):
        raise InputRefused(f"{name}: that is an address; give it as {{'url': …}}", field=name)
    return Path(text)


def _store(name: str, audio: _Audio, intake: Intake) -> StoredInput | None:
    if audio.path is not None:
        return intake.store_file(name, audio.path)
    if audio.data is not None:
        return intake.store_bytes(name, audio.data)
    if audio.url is not None:
        return intake.store_url(name, audio.url)
    return None
