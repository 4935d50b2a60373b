"""A TCP proxy in front of a server: connections through it can be cut, and what they carry held up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

PIECE = 65536


class Proxy:
    """Listens on the loopback and passes on to a unix socket; runs in a thread of its own.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port = self._do(self._listen())

    def stall(self) -> None:
        """Hold up whatever is sent, both ways; connections stay open, and new ones are taken."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """Pass everything on again."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def drop(self) -> None:
        """Cut every connection."""
        self._do(self._drop())

    def refuse(self, refusing: bool) -> None:
        """Take no new connections, or take them again."""
        self._refusing = refusing

    def close(self) -> None:
        """Cut everything and stop listening."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _listen(self) -> int:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _drop(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        await self._drop()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self._refusing:
                await self._flowing.wait()
                far, there = await asyncio.open_unix_connection(self._target)
                self._writers.add(there)
                await asyncio.gather(self._pass_on(reader, there), self._pass_on(far, writer))
        for end in (writer, there):
            if end is not None:
                self._writers.discard(end)
                end.transport.abort()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(PIECE):
                await self._flowing.wait()
                target.write(piece)
                await target.drain()
        finally:
            # The other direction ends with this one: its peer closed, or the connection was cut.
            with contextlib.suppress(OSError, RuntimeError):
                target.close()
