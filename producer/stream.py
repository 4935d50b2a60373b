"""A stream of requests of any length, accepted in chunks, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from soundmill.storage.errors import SubmitRefused

from .acceptance import Named
from .draft import Draft
from .request import Request, Submission

if TYPE_CHECKING:
    from .intake import Intake
    from .job import Job
    from .submitter import Submitter

CHUNK = 2000
CHUNK_S = 1.0
"""A slow source of requests is committed at least this often, as far as it yields at all."""
ALIASES = 10_000

KeyOf = Callable[[Draft], str]


@dataclass(slots=True)
class _Chunk:
    """Some items in a row: a draft of each, or why it was refused."""

    began: float = field(default_factory=time.monotonic)
    items: list[Draft | SubmitRefused] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.items) >= CHUNK or time.monotonic() - self.began > CHUNK_S


def submit_chunks(
    submitter: Submitter, requests: Iterable[Request], intake: Intake, key_of: KeyOf | None = None
) -> Iterator[list[Submission]]:
    """Accept requests chunk by chunk; each chunk is one transaction.

    An item may refer to the alias of an earlier item, as long as it is one of the last 10,000
    aliases; an alias among those cannot be given again.

    Args:
        submitter: Accepts and publishes.
        requests: Read lazily, at most one chunk ahead of what was yielded.
        intake: Where audio comes from.
        key_of: Gives an idempotency key to a draft that has none.

    Yields:
        What became of the items of each chunk, in order.
    """
    aliases: OrderedDict[str, Named | None] = OrderedDict()
    index = 0
    for chunk in _chunks(submitter, requests, intake, key_of, aliases):
        drafts = [item for item in chunk.items if not isinstance(item, SubmitRefused)]
        answers, names = submitter.submit_chunk(drafts, aliases) if drafts else ([], {})
        aliases.update(names)
        while len(aliases) > ALIASES:
            aliases.popitem(last=False)
        settled = iter(answers)
        whole = [item if isinstance(item, SubmitRefused) else next(settled) for item in chunk.items]
        yield [_submission(index + place, answer) for place, answer in enumerate(whole)]
        index += len(whole)


def _chunks(
    submitter: Submitter,
    requests: Iterable[Request],
    intake: Intake,
    key_of: KeyOf | None,
    aliases: OrderedDict[str, Named | None],
) -> Iterator[_Chunk]:
    chunk, here = _Chunk(), set[str]()
    for request in requests:
        if not chunk.items:
            chunk.began = time.monotonic()
        alias = getattr(request, "alias", None)
        try:
            if alias is not None and (alias in here or alias in aliases):
                raise SubmitRefused(f"alias: an earlier item has the alias {alias!r} already", field="alias")
            draft = submitter.draft(request, intake, keyed=key_of is not None)
            if key_of is not None and draft.idempotency_key is None:
                draft = replace(draft, idempotency_key=key_of(draft))
            chunk.items.append(draft)
        except SubmitRefused as refusal:
            chunk.items.append(refusal)
            if alias is not None and alias not in aliases and alias not in here:
                aliases[alias] = None  # who refers to it learns that it was refused
        if alias is not None:
            here.add(alias)
        if chunk.full:
            yield chunk
            chunk, here = _Chunk(), set()
    if chunk.items:
        yield chunk


def _submission(index: int, answer: Job | SubmitRefused) -> Submission:
    if isinstance(answer, SubmitRefused):
        return Submission(index=index, refusal=answer)
    return Submission(index=index, job=answer, fresh=answer.fresh)
