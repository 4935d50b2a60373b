"""Acceptance: drafts become rows in one transaction, each with an answer of its own.

What `storage.submission.accept` would refuse for all is found out first, in the same transaction:
keys that are known, jobs and blobs of the tenant that are referred to. Only another process that
commits the same key at the same moment is left; then everything is undone and done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from soundmill.storage.audio_fields import input_name, with_audio
from soundmill.storage.errors import (
    IdempotencyConflict,
    InputRefused,
    NotFound,
    StorageUnavailable,
    SubmitRefused,
)
from soundmill.storage.submission import Accepted, NewJob, StoredInput, accept

from . import lookup
from .draft import SILENT_KINDS, Draft
from .ids import new_ids

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from soundmill.storage.database import Database

Answer = Accepted | SubmitRefused

TRIES = 4


@dataclass(frozen=True, slots=True)
class Named:
    """The job behind an alias: its id and kind, and whether nothing but its key is left."""

    id: str
    kind: str
    pruned: bool = False


Names = Mapping[str, Named | None]
"""Jobs by alias; `None` for one that was refused."""


_Found = tuple[Mapping[str, lookup.KnownKey], Mapping[str, str], Mapping[str, lookup.OwnedBlob]]
"""What the table holds of that which drafts refer to: keys, the kinds of jobs, blobs."""


class _OvertakenError(Exception):
    """Another process committed one of our keys since we looked."""


@dataclass(slots=True)
class _Plan:
    """What the answers will be, as far as it is known before the insert."""

    ids: Iterator[str]
    names: dict[str, Named | None] = field(default_factory=dict)
    answers: list[Answer | int] = field(default_factory=list)
    """An int is the place in `jobs` of the job that will answer."""
    jobs: list[NewJob] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)


def accept_drafts(
    connection: Connection, database: Database, tenant: str, drafts: Sequence[Draft], names: Names
) -> tuple[list[Answer], dict[str, Named | None]]:
    """Insert the drafts that can be accepted, parents before their children.

    Args:
        connection: An open write transaction, which may be the caller's own.
        database: The database of the connection.
        tenant: Whose jobs they become.
        drafts: In an order in which no draft refers to the alias of a later one.
        names: Aliases that were given before.

    Returns:
        An answer for each draft, in order, and the aliases that were added.

    Raises:
        StorageUnavailable: Others kept committing the same keys.
    """
    for _ in range(TRIES):
        try:
            with connection.begin_nested():
                return _accept_once(connection, database, tenant, drafts, names)
        except _OvertakenError:
            continue
    raise StorageUnavailable("other processes submit the same idempotency keys just now; try again")


def _accept_once(
    connection: Connection, database: Database, tenant: str, drafts: Sequence[Draft], names: Names
) -> tuple[list[Answer], dict[str, Named | None]]:
    plan = _make_plan(connection, tenant, drafts, names)
    try:
        accepted = accept(connection, database, plan.jobs) if plan.jobs else []
    except (IdempotencyConflict, NotFound) as error:
        raise _OvertakenError from error
    if not all(answer.fresh for answer in accepted):
        # Its children, if any, were given the id that is not there.
        raise _OvertakenError
    if plan.answers == list(range(len(accepted))):  # each draft a new job, as in most streams
        return list(accepted), plan.names
    answers: list[Answer] = []
    taken: set[int] = set()
    for answer in plan.answers:
        if not isinstance(answer, int):
            answers.append(answer)
            continue
        row = accepted[answer]
        first = answer not in taken
        taken.add(answer)
        answers.append(row if first else Accepted(id=row.id, state=row.state, fresh=False, seq=row.seq))
    return answers, plan.names


def _make_plan(connection: Connection, tenant: str, drafts: Sequence[Draft], names: Names) -> _Plan:
    keys = {draft.idempotency_key for draft in drafts if draft.idempotency_key is not None}
    jobs = {name for draft in drafts for name in draft.references.values() if not name.startswith("@")}
    hashes = {sha256 for draft in drafts for sha256 in draft.artifacts.values()}
    known = lookup.known_keys(connection, tenant, keys) if keys else {}
    kinds = lookup.kinds_of(connection, tenant, jobs, whole=True) if jobs else {}
    blobs = lookup.owned_blobs(connection, tenant, hashes) if hashes else {}
    plan = _Plan(iter(new_ids(len(drafts))))
    for draft in drafts:
        answer = _planned(plan, draft, tenant, names, (known, kinds, blobs))
        plan.answers.append(answer)
        if draft.alias is not None:
            plan.names[draft.alias] = _named(plan, draft, answer, known)
    return plan


def _planned(plan: _Plan, draft: Draft, tenant: str, names: Names, found: _Found) -> Answer | int:
    known, kinds, blobs = found
    try:
        if draft.idempotency_key is not None:
            answer = _known_answer(plan, draft, draft.idempotency_key, known)
            if answer is not None:
                return answer
        job = _new_job(next(plan.ids), draft, tenant, names, plan.names, kinds, blobs)
        plan.jobs.append(job)
    except SubmitRefused as refusal:
        return refusal
    place = len(plan.jobs) - 1
    if draft.idempotency_key is not None:
        plan.keys[draft.idempotency_key] = place
    return place


def _named(
    plan: _Plan, draft: Draft, answer: Answer | int, known: Mapping[str, lookup.KnownKey]
) -> Named | None:
    if isinstance(answer, SubmitRefused):
        return None
    if isinstance(answer, int):
        return Named(plan.jobs[answer].id, draft.model.kind)
    key = draft.idempotency_key or ""
    return Named(answer.id, draft.model.kind, pruned=key in known and known[key].pruned)


def _known_answer(
    plan: _Plan, draft: Draft, key: str, known: Mapping[str, lookup.KnownKey]
) -> Accepted | int | None:
    """The job that has the draft's key already, in the table or earlier in the plan."""
    if key in known:
        job = known[key]
        _require_same(draft, job.digest, job.id)
        return Accepted(id=job.id, state=job.state, fresh=False, seq=job.seq)
    if key in plan.keys:
        earlier = plan.jobs[plan.keys[key]]
        _require_same(draft, earlier.digest, earlier.id)
        return plan.keys[key]
    return None


def _require_same(draft: Draft, digest: str, job_id: str) -> None:
    if draft.digest != digest:
        raise IdempotencyConflict(
            f"the idempotency key {draft.idempotency_key!r} belongs to job {job_id}, which has other "
            "arguments; choose another key, or submit those arguments",
            field="idempotency_key",
        )


def _new_job(
    id_: str,
    draft: Draft,
    tenant: str,
    before: Names,
    here: Names,
    kinds: Mapping[str, str],
    blobs: Mapping[str, lookup.OwnedBlob],
) -> NewJob:
    args, inputs = draft.args, draft.inputs
    parents: set[str] = set()
    for name, reference in draft.references.items():
        parent = _parent(name, reference, before, here, kinds)
        args = with_audio(args, {name: {"job": parent}})
        parents.add(parent)
    for name, sha256 in draft.artifacts.items():
        inputs = (*inputs, _owned_input(name, sha256, blobs))
    return NewJob(
        id=id_,
        tenant=tenant,
        batch=draft.batch,
        custom_id=draft.custom_id,
        kind=draft.model.kind,
        model=draft.model.id,
        args=args,
        args_version=draft.model.arguments.version,
        digest=draft.digest,
        priority=draft.priority,
        max_failures=draft.max_failures,
        idempotency_key=draft.idempotency_key,
        parents=tuple(sorted(parents)),
        inputs=inputs,
        delay_s=draft.delay_s,
        timeout_s=draft.timeout_s,
        model_revision=draft.model.revision,
    )


def _parent(field_name: str, reference: str, before: Names, here: Names, kinds: Mapping[str, str]) -> str:
    """The id of the job that an argument reads from."""
    place = f"{field_name}.job"
    if reference.startswith("@"):
        alias = reference[1:]
        if alias not in here and alias not in before:
            raise SubmitRefused(f"{place}: nothing before it has the alias {alias!r}", field=place)
        named = here[alias] if alias in here else before[alias]
        if named is None:
            raise SubmitRefused(f"{place}: the job with the alias {alias!r} was refused", field=place)
    else:
        if reference not in kinds:
            raise SubmitRefused(
                f"{place}: there is no job {reference} to take the audio from; "
                "an alias of the same submit is written with @",
                field=place,
            )
        named = Named(reference, kinds[reference])
    if named.pruned:
        raise SubmitRefused(
            f"{place}: {reference} is job {named.id}, which was done long ago and pruned; "
            "give it another idempotency key, and it runs again",
            field=place,
        )
    if named.kind in SILENT_KINDS:
        raise SubmitRefused(
            f"{place}: {reference} does a {named.kind} job, which makes no audio; name one that speaks",
            field=place,
        )
    return named.id


def _owned_input(name: str, sha256: str, blobs: Mapping[str, lookup.OwnedBlob]) -> StoredInput:
    blob = blobs.get(sha256)
    if blob is None:
        raise InputRefused(
            f"{name}.artifact: none of the jobs has a file with this SHA-256; give the file itself",
            field=f"{name}.artifact",
        )
    if not blob.media_type.startswith("audio/"):
        raise InputRefused(
            f"{name}.artifact: that file is {blob.media_type}, not audio; name a file that is",
            field=f"{name}.artifact",
        )
    return StoredInput(name=input_name(name), sha256=sha256, size=blob.size, media_type=blob.media_type)
