"""The Python API: submit, wait, read, decide. One `Producer` per process serves all its threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, overload

from soundmill.storage import decisions, listing
from soundmill.storage.blobs import BlobStore, open_blobs
from soundmill.storage.catalog import load_catalog
from soundmill.storage.database import Database
from soundmill.storage.errors import NotFound, SettingsError, SubmitRefused
from soundmill.storage.examiner import Examiner
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings, load_settings
from soundmill.storage.submission import Accepted

from .aio import AsyncProducer
from .draft import Draft
from .intake import Intake
from .job import Ids, Job, grouped, ids_of
from .ownership import NAMED_AT_ONCE, cancel_own, require_own, retry_own
from .publication import Publication
from .request import Request, Submission
from .stream import KeyOf, submit_chunks
from .submitter import Submitter
from .waiting import PAGE, as_final, ids_of_batch, wait_for
from .watcher import Watcher

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from soundmill.storage.listing import ArtifactView, AttemptView, JobView


class Producer:
    """Submits jobs and waits for them. Safe between threads; a context manager that closes itself.

    Nothing is opened before it is needed. The commit of the row is the acceptance: what happens to
    the broker afterwards can delay a job, never lose it, and a submit returns within 300 ms after
    the commit. All jobs are those of the tenant in the settings; others are not found.

    Attributes:
        settings: The settings of the host.
        catalog: The models that can be asked for.
        aio: The same for asyncio.
        watcher: Asks for all who wait in this process.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        """Build a producer.

        Args:
            settings: All settings; `None` reads the file and the environment.
            **overrides: Settings by name that win over file and environment.

        Raises:
            SettingsError: A setting cannot be used.
        """
        if settings is not None and overrides:
            raise SettingsError("give a producer either settings or overrides by name, not both")
        self.settings = settings if settings is not None else load_settings(overrides)
        self.catalog = load_catalog(self.settings.plugins)
        self._database = Database(self.settings.database_url)
        self._migrated = False
        self._blobs: BlobStore | None = None
        self._intake: Intake | None = None
        self._examiner = Examiner(self.settings.max_audio_s)
        self._open()
        os.register_at_fork(after_in_child=_reopen_after_fork(self))

    def _open(self) -> None:
        """Make what belongs to one process: threads, locks and the connection to the broker."""
        self._lock = threading.Lock()
        self._publication = Publication(self.settings, lambda: self.database)
        self._submitter = Submitter(
            self.settings, self.catalog, lambda: self.database, self._publication, self._job
        )
        self.watcher = Watcher(lambda: self.database, self.settings.tenant)
        self.aio = AsyncProducer(self)

    @property
    def database(self) -> Database:
        """The job table, its tables made.

        Raises:
            StorageUnavailable: It did not answer.
        """
        with self._lock:
            if not self._migrated:
                migrate(self._database)
                self._migrated = True
        return self._database

    @property
    def blobs(self) -> BlobStore:
        """The bytes of inputs and artifacts."""
        with self._lock:
            if self._blobs is None:
                self._blobs = open_blobs(self.settings)
            return self._blobs

    def open_intake(self, base: Path | None = None, roots: Sequence[Path] = ()) -> Intake:
        """An intake of audio for the submits below; see `Intake` for the arguments."""
        return Intake(self.settings, self.blobs, base=base, roots=roots, examiner=self._examiner)

    def submit(
        self,
        request: Request | None = None,
        /,
        *,
        connection: Connection | None = None,
        intake: Intake | None = None,
        **fields: Any,
    ) -> Job:
        """Accept one job.

        Args:
            request: The job; or give its fields by name: `submit(model=…, args=…)`.
            connection: A connection of the caller's own to the same PostgreSQL database. The row is
                part of its transaction and nothing is published: when the caller commits, the
                dispatcher takes the job up; when the caller rolls back, it never was. Input audio is
                stored before, whatever becomes of the transaction.
            intake: Where audio may come from, if not from the folders in the settings.
            **fields: Those of `Request`.

        Raises:
            SubmitRefused: With the field at fault. Nothing was kept, and a caller's transaction can
                go on.
            StorageUnavailable: The job table or the blobs did not answer.
        """
        if (request is None) == (not fields):
            raise TypeError("give submit() either a request or its fields by name")
        one = request if request is not None else Request(**fields)
        return self.submit_graph([one], connection=connection, intake=intake)[0]

    def submit_graph(
        self,
        requests: Iterable[Request],
        *,
        connection: Connection | None = None,
        intake: Intake | None = None,
    ) -> list[Job]:
        """Accept several jobs in one transaction: all or none.

        One reads what another makes by its alias: `args={"audio": {"job": "@speech"}, …}`.

        Args:
            requests: In any order.
            connection: As for `submit`.
            intake: As for `submit`.

        Returns:
            The jobs, in the order of the requests.

        Raises:
            SubmitRefused: Of the first request at fault; or an alias is unknown or given twice, or
                jobs wait for each other in a circle.
            StorageUnavailable: The job table or the blobs did not answer.
        """
        source = intake or self._own_intake()
        drafts = [self._submitter.draft(request, source) for request in requests]
        if len(drafts) > NAMED_AT_ONCE:
            raise SubmitRefused(f"a graph has at most {NAMED_AT_ONCE} jobs; use submit_many")
        return self._submitter.submit_graph(drafts, connection) if drafts else []

    def submit_many(
        self, requests: Iterable[Request], *, intake: Intake | None = None
    ) -> Iterator[Submission]:
        """Accept a stream of requests of any length in bounded memory.

        They are read lazily and committed in chunks of at most 500. A refused item does not stop the
        others. A request may refer to the alias of an earlier one, among the last 10,000 aliases.
        Give the requests idempotency keys, and a stream that broke off can be sent again whole.

        Args:
            requests: Any iterable.
            intake: As for `submit`.

        Yields:
            What became of each item, in order, as soon as its chunk is committed.

        Raises:
            StorageUnavailable: The job table or the blobs did not answer; what was yielded is safe.
        """
        return chain.from_iterable(self.submit_chunks(requests, intake=intake))

    def submit_chunks(
        self, requests: Iterable[Request], *, intake: Intake | None = None, key_of: KeyOf | None = None
    ) -> Iterator[list[Submission]]:
        """As `submit_many`, but yields the items of each transaction together.

        `key_of` gives an idempotency key to a draft that has none; it is called in order.
        """
        return submit_chunks(self._submitter, requests, intake or self._own_intake(), key_of)

    def check(self, request: Request, intake: Intake | None = None) -> Draft:
        """Check a request as `submit` does, and store its audio, but submit nothing.

        Raises:
            SubmitRefused: With the field at fault. Jobs and artifacts that it names are not looked up.
        """
        return self._submitter.draft(request, intake or self._own_intake())

    def get(self, job_id: str) -> JobView:
        """A job as it is now.

        Raises:
            NotFound: The tenant has no such job.
        """
        with self.database.read() as connection:
            return listing.get_job(connection, job_id, self.settings.tenant)

    @overload
    def wait(  # type: ignore[overload-overlap]  # a str is an Iterable[str], too
        self, ids: str | Job, timeout_s: float | None = None
    ) -> JobView: ...
    @overload
    def wait(self, ids: Iterable[str | Job], timeout_s: float | None = None) -> list[JobView]: ...
    def wait(self, ids: Ids, timeout_s: float | None = None) -> JobView | list[JobView]:
        """Block until jobs are final: completed, cancelled or discarded.

        An outage of the job table is waited out. Any number of threads may wait: one thread of the
        producer asks for all of them.

        Args:
            ids: One job, or several.
            timeout_s: How long at most, in seconds; `None` for ever.

        Returns:
            The job, or the jobs in the order given.

        Raises:
            NotFound: The tenant has no such job.
            WaitTimedOut: Some were not final in time.
        """
        order = ids_of(ids)
        found = wait_for(self.watcher, order, timeout_s)
        return found[order[0]] if isinstance(ids, str | Job) else [found[job_id] for job_id in order]

    def results(
        self,
        ids: Iterable[str | Job] | None = None,
        *,
        batch: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[JobView]:
        """Stream jobs as they become final, in bounded memory.

        They come in groups of 500 in order of acceptance, and within a group as they finish.

        Args:
            ids: The jobs.
            batch: Instead of `ids`: all jobs of a batch, those that are added meanwhile too.
            timeout_s: The longest wait for the next job, in seconds; `None` for ever.

        Raises:
            NotFound: The tenant has no such job.
            WaitTimedOut: The next job took longer.
        """
        for group in self.groups(ids, batch):
            yield from as_final(self.watcher, group, timeout_s)

    def groups(self, ids: Iterable[str | Job] | None, batch: str | None) -> Iterator[list[str]]:
        """Ids in groups of at most 500: those given, or those of a batch in order of acceptance."""
        if (ids is None) == (batch is None):
            raise TypeError("give either ids or a batch")
        if batch is not None:
            return ids_of_batch(self.database, self.settings.tenant, batch)
        return grouped(ids or (), PAGE)

    def cancel(self, ids: Ids) -> None:
        """Cancel jobs that wait, with all that wait for them, and stop those that run.

        A running job stops within about a second, and is final then; when this returns, it will not be completed
        any more. One that is final stays so.

        Raises:
            NotFound: The tenant has no such job; nothing was changed.
        """
        self._publication.connect()
        stopping = cancel_own(self.database, self.settings.tenant, ids_of(ids))
        if stopping:
            self._publication.stop_running(stopping)

    def retry(self, ids: Ids) -> None:
        """Bring discarded and cancelled jobs back, with a fresh budget of failures and no deadline.

        Jobs that were cancelled because of them come back too.

        Raises:
            NotFound: The tenant has no such job; nothing was changed.
            StateConflict: One of them is neither discarded nor cancelled; nothing was changed.
        """
        self._publication.connect()
        freed = retry_own(self.database, self.settings.tenant, ids_of(ids))
        if freed:
            self._publication.republish(freed)

    def artifacts(self, job_id: str) -> list[ArtifactView]:
        """The files of a job, its inputs too (role `input`), by name.

        Raises:
            NotFound: The tenant has no such job.
        """
        with self.database.read() as connection:
            require_own(connection, self.settings.tenant, [job_id])
            return listing.artifacts_of(connection, job_id)

    def attempts(self, job_id: str) -> list[AttemptView]:
        """How the attempts at a job ended, oldest first.

        Raises:
            NotFound: The tenant has no such job.
        """
        with self.database.read() as connection:
            require_own(connection, self.settings.tenant, [job_id])
            return listing.attempts_of(connection, job_id)

    def open_artifact(self, job_id: str, name: str) -> BinaryIO:
        """A file of a job as a stream from its beginning, which the caller closes.

        Raises:
            NotFound: The tenant has no such job, or the job no such file.
        """
        files = {file.name: file for file in self.artifacts(job_id)}
        if name not in files:
            raise NotFound(f"job {job_id} has no file {name!r}; it has {', '.join(files) or 'none'}")
        return self.blobs.open(files[name].sha256)

    def pause(self, model: str) -> None:
        """Let no job of a model start, on any worker, until `resume`. Running jobs go on.

        Raises:
            UnknownModel: The catalogue has no such model.
        """
        self._set_paused(model, paused=True)

    def resume(self, model: str) -> None:
        """Let the jobs of a model start again; the dispatcher sends them out.

        Raises:
            UnknownModel: The catalogue has no such model.
        """
        self._set_paused(model, paused=False)

    def close(self) -> None:
        """Close all connections. Those who still wait get a `RuntimeError`."""
        self.watcher.close()
        self.aio.close()
        self._publication.close()
        self._examiner.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own_intake(self) -> Intake:
        if self._intake is None:
            self._intake = self.open_intake()
        return self._intake

    def _job(self, accepted: Accepted, warning: str | None) -> Job:
        return Job(id=accepted.id, state=accepted.state, fresh=accepted.fresh, warning=warning, producer=self)

    def _set_paused(self, model: str, *, paused: bool) -> None:
        self.catalog.get(model)
        with self.database.write() as connection:
            decisions.set_paused(connection, self.database, model, paused=paused)


def _reopen_after_fork(producer: Producer) -> Callable[[], None]:
    known = weakref.ref(producer)

    def reopen() -> None:
        if (alive := known()) is not None:
            alive._open()

    return reopen
