"""The producer for asyncio: the same core, run in a few threads; waits need no thread at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from . import waiting
from .job import Ids, Job, ids_of
from .waiting import groups_of, timed_out
from .watcher import Outcome, Waiter

if TYPE_CHECKING:
    from soundmill.storage.listing import ArtifactView, AttemptView, JobView

    from .producer import Producer
    from .request import Request, Submission

T = TypeVar("T")
P = ParamSpec("P")

THREADS = 4


class AsyncProducer:
    """`Producer` for coroutines, reached as `producer.aio`; what the methods do is described there.

    Any number of tasks may wait: one thread watches for all of them, and at most four do the rest.
    Cancelling a task that waits leaves the job alone.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="soundmill-aio")

    async def submit(self, request: Request | None = None, /, **fields: Any) -> Job:
        return await self._run(partial(self._producer.submit, request, **fields))

    async def submit_graph(self, requests: Iterable[Request]) -> list[Job]:
        return await self._run(partial(self._producer.submit_graph, requests))

    async def submit_many(self, requests: Iterable[Request]) -> AsyncIterator[Submission]:
        """As `Producer.submit_many`; `requests` is read in another thread."""
        chunks = self._producer.submit_chunks(requests)
        while (chunk := await self._run(partial(next, chunks, None))) is not None:
            for submission in chunk:
                yield submission

    async def get(self, job_id: str) -> JobView:
        return await self._run(partial(self._producer.get, job_id))

    @overload
    async def wait(  # type: ignore[overload-overlap]  # a str is an Iterable[str], too
        self, ids: str | Job, timeout_s: float | None = None
    ) -> JobView: ...
    @overload
    async def wait(self, ids: Iterable[str | Job], timeout_s: float | None = None) -> list[JobView]: ...
    async def wait(self, ids: Ids, timeout_s: float | None = None) -> JobView | list[JobView]:
        if isinstance(ids, str | Job):
            return (await self.wait([ids], timeout_s))[0]
        order = ids_of(ids)
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        found: dict[str, JobView] = {}
        for group in groups_of(list(dict.fromkeys(order))):
            found |= await self._wait_for(group, deadline)
        return [found[job_id] for job_id in order]

    async def results(
        self,
        ids: Iterable[str | Job] | None = None,
        *,
        batch: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[JobView]:
        groups = self._producer.groups(ids, batch)
        while (group := await self._run(partial(next, groups, None))) is not None:
            async with contextlib.aclosing(self._as_final(group, timeout_s)) as jobs:
                async for job in jobs:
                    yield job

    async def cancel(self, ids: Ids) -> None:
        await self._run(partial(self._producer.cancel, ids))

    async def retry(self, ids: Ids) -> None:
        await self._run(partial(self._producer.retry, ids))

    async def artifacts(self, job_id: str) -> list[ArtifactView]:
        return await self._run(partial(self._producer.artifacts, job_id))

    async def attempts(self, job_id: str) -> list[AttemptView]:
        return await self._run(partial(self._producer.attempts, job_id))

    async def read_artifact(self, job_id: str, name: str) -> bytes:
        """A file of a job, whole; `Producer.open_artifact` streams a large one."""

        def read() -> bytes:
            with self._producer.open_artifact(job_id, name) as stream:
                return stream.read()

        return await self._run(read)

    def close(self) -> None:
        """Let the threads end when they have done what they are at."""
        self._threads.shutdown(wait=False)

    async def _run(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, action)

    async def _wait_for(self, ids: Sequence[str], deadline: float | None) -> dict[str, JobView]:
        arrived: asyncio.Queue[Outcome] = asyncio.Queue()
        waiter = Waiter(ids, _threadsafe(arrived.put_nowait))
        self._producer.watcher.add(waiter)
        try:
            return dict(await self._next_of(arrived, [waiter], deadline))
        finally:
            self._producer.watcher.remove(waiter)

    async def _as_final(self, ids: Sequence[str], timeout_s: float | None) -> AsyncGenerator[JobView]:
        arrived: asyncio.Queue[Outcome] = asyncio.Queue()
        waiters = [Waiter([job_id], _threadsafe(arrived.put_nowait)) for job_id in dict.fromkeys(ids)]
        self._producer.watcher.add(*waiters)
        try:
            for _ in waiters:
                deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
                for job in (await self._next_of(arrived, waiters, deadline)).values():
                    yield job
        finally:
            self._producer.watcher.remove(*waiters)

    async def _next_of(
        self, arrived: asyncio.Queue[Outcome], waiters: Sequence[Waiter], deadline: float | None
    ) -> Mapping[str, JobView]:
        """What comes next for one of the waiters; as `waiting` does it for a thread."""
        try:
            async with asyncio.timeout_at(deadline):
                outcome = await arrived.get()
        except TimeoutError:
            await self._last_look()
            try:
                outcome = arrived.get_nowait()
            except asyncio.QueueEmpty:
                raise timed_out(*waiters) from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _last_look(self) -> None:
        looked = asyncio.Event()
        self._producer.watcher.after_look(_threadsafe(looked.set))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(waiting.LAST_LOOK_S):
                await looked.wait()


def _threadsafe(action: Callable[P, object]) -> Callable[P, None]:
    """How the watcher's thread acts on something that belongs to the loop of this coroutine."""
    loop = asyncio.get_running_loop()

    def act(*args: P.args, **named: P.kwargs) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits any more
            loop.call_soon_threadsafe(partial(action, *args, **named))

    return act
