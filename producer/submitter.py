"""Submitting: drafts, acceptance and publication in their order, for one job, a graph or a stream."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from soundmill.storage.errors import SubmitRefused
from soundmill.storage.lifecycle import State
from soundmill.storage.submission import Accepted
from soundmill.storage.window import Wake

from .acceptance import Answer, Named, Names, accept_drafts
from .draft import Draft, make_draft
from .graph import parents_first
from .request import Request

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from soundmill.storage.catalog import Catalog
    from soundmill.storage.database import Database
    from soundmill.storage.settings import Settings

    from .intake import Intake
    from .job import Job
    from .publication import Publication

logger = logging.getLogger(__name__)


class MakeJob(Protocol):
    """Makes the handle of an accepted job."""

    def __call__(self, accepted: Accepted, warning: str | None) -> Job: ...


class Submitter:
    """What `Producer.submit` and its relatives have in common. Safe between threads."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        database: Callable[[], Database],
        publication: Publication,
        make_job: MakeJob,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._database = database
        self._publication = publication
        self._make_job = make_job
        self._warned: set[str] = set()

    def draft(self, request: Request, intake: Intake, *, keyed: bool = False) -> Draft:
        """Check a request and store its audio; `keyed` tells that it will be given an idempotency key.

        Raises:
            SubmitRefused: With the field at fault.
        """
        if not isinstance(request, Request):
            raise SubmitRefused(f"give a Request, not {type(request).__name__}")
        return make_draft(request, self._settings, self._catalog, intake, keyed=keyed)

    def submit_graph(self, drafts: Sequence[Draft], connection: Connection | None) -> list[Job]:
        """Accept all or none, in the caller's transaction if there is one; see `Producer`."""
        order = parents_first(drafts)
        ordered = [drafts[place] for place in order]
        if connection is not None:
            jobs = [self._make_job(row, None) for row in self._join(connection, ordered)]
        else:
            self._publication.connect()
            database = self._database()
            accepted = database.retrying(lambda own: self._accept_all(own, database, ordered))
            jobs = self._publish(ordered, accepted)
        placed = dict(zip(order, jobs, strict=True))
        return [placed[place] for place in range(len(drafts))]

    def submit_chunk(
        self, drafts: Sequence[Draft], names: Names
    ) -> tuple[list[Job | SubmitRefused], dict[str, Named | None]]:
        """Accept what can be accepted; return an answer for each draft, and the new aliases."""
        self._publication.connect()
        database = self._database()
        tenant = self._settings.tenant
        answers, new_names = database.retrying(
            lambda own: accept_drafts(own, database, tenant, drafts, names)
        )
        rows = [(d, a) for d, a in zip(drafts, answers, strict=True) if isinstance(a, Accepted)]
        jobs = iter(self._publish([draft for draft, _ in rows], [row for _, row in rows]))
        return [next(jobs) if isinstance(answer, Accepted) else answer for answer in answers], new_names

    def _join(self, connection: Connection, drafts: Sequence[Draft]) -> list[Accepted]:
        database = self._database()
        if not connection.dialect.name == database.dialect == "postgresql":
            raise SubmitRefused(
                "connection: only a transaction on PostgreSQL can be joined, and database_url must name the "
                "same database; submit without connection",
                field="connection",
            )
        return self._accept_all(connection, database, drafts)

    def _accept_all(
        self, connection: Connection, database: Database, drafts: Sequence[Draft]
    ) -> list[Accepted]:
        with connection.begin_nested():
            answers, _ = accept_drafts(connection, database, self._settings.tenant, drafts, {})
            return [_accepted(answer) for answer in answers]

    def _publish(self, drafts: Sequence[Draft], accepted: Sequence[Accepted]) -> list[Job]:
        fresh = [
            (draft, row)
            for draft, row in zip(drafts, accepted, strict=True)
            if row.fresh and row.state is State.AVAILABLE
        ]
        first = min((row.seq for _, row in fresh), default=None)
        models = {draft.model.id for draft in drafts}
        served = self._publication.publish(self._wakes(fresh), models, first)
        warnings = {model: self._warning(model) for model in sorted(models - served)}
        return [
            self._make_job(row, None if row.state.final else warnings.get(draft.model.id))
            for draft, row in zip(drafts, accepted, strict=True)
        ]

    def _wakes(self, fresh: Sequence[tuple[Draft, Accepted]]) -> list[Wake]:
        """Messages for the first jobs of each model and priority, and no more than could have room."""
        count: Counter[tuple[str, int]] = Counter()
        wakes = []
        for draft, row in fresh:
            model, priority = draft.model, draft.priority
            if count[model.id, priority] < self._settings.window_min:
                count[model.id, priority] += 1
                wakes.append(Wake(id=row.id, kind=model.kind, model=model.id, priority=priority, attempt=0))
        return wakes

    def _warning(self, model: str) -> str:
        if model not in self._warned:
            self._warned.add(model)
            logger.warning("no live worker serves the model; its jobs wait", extra={"model": model})
        return f"no live worker serves {model} now, so the job waits; start one with: soundmill up"


def _accepted(answer: Answer) -> Accepted:
    if isinstance(answer, SubmitRefused):
        raise answer
    return answer
