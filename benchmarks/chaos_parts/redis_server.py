"""The Redis or Valkey server of a run: on a unix socket in a folder, started, killed and frozen at will."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import time
from pathlib import Path

import psutil
import redis

from soundmill.storage.broker_place import Place, quoted
from soundmill.storage.broker_server import configuration, find_server

START_S = 30.0
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)


class RedisServer:
    """A server with an append-only file, configured like the embedded broker."""

    def __init__(self, folder: Path) -> None:
        """Use a private folder with a short path."""
        self.socket = folder / "s"
        self._folder = folder
        data = folder / "data"
        data.mkdir()
        place = Place(url="", directives=f"port 0\nunixsocket {quoted(self.socket)}\nunixsocketperm 700")
        (folder / "conf").write_text(configuration(place, data))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; nothing if it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_server(), self._folder / "conf"],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into the kernel takes no lock
            )
        limit = time.monotonic() + START_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.02)

    def client(self) -> redis.Redis:
        """A client that goes past every proxy."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=20)

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def shut_down(self) -> None:
        """Ask it to end."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=START_S)

    def freeze(self, frozen: bool) -> None:
        """Stop it where it is, or let it go on."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        process.suspend() if frozen else process.resume()

    def close(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
