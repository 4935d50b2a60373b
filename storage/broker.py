"""The Redis or Valkey that passes the wake-ups: a given one, or one that this host runs for itself.

    broker_url given  →  Broker           somebody else's server; we only know its address
    otherwise         →  EmbeddedBroker   a lock in the state folder elects the owner, others join

The owner starts a guard (`broker_guard.py`), the guard starts the server. All three end together,
whichever of them is killed. The state folder keeps, under `broker/`: `owner.lock`, `server.lock`,
`url` (where to join), `server.conf`, `server.log` and `data/`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import broker_guard
from .broker_place import clear_place, make_private, place_of, read_private, write_private
from .broker_server import configuration, find_server
from .errors import SettingsError, StorageUnavailable
from .settings import Settings, masked

logger = logging.getLogger(__name__)

SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")

# Loading 256 MB of commands takes a slow host several seconds.
START_WAIT_S = 30.0
PING_S = 0.5
LOG_LINES_SHOWN = 8


class Broker:
    """A server at a given address, and the context manager that every broker is.

    Attributes:
        url: The address in kombu's spelling. It may hold a password: show it with `masked`.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def redis_url(self) -> str:
        """The same address in redis-py's spelling."""
        return redis_url(self.url)

    @property
    def owned(self) -> bool:
        """Whether the server ends with this process."""
        return False

    def ensure_alive(self) -> bool:
        """Start the server again if it is ours to start and has died.

        Returns:
            Whether it had to be started.

        Raises:
            StorageUnavailable: It did not start; the message has the server's last words.
        """
        return False

    def close(self) -> None:
        """Stop the server if it is owned. Its data stay in the state folder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def resolve_broker(settings: Settings) -> Broker:
    """Find the given broker, join the one that runs on this host, or start and own one.

    Raises:
        SettingsError: The address is of a kind that cannot be used.
        BrokerNotFound: No server is installed; the message has the line that installs one.
        StorageUnavailable: The server did not start.
    """
    if settings.broker_url is not None:
        return Broker(_checked(settings.broker_url))
    broker = EmbeddedBroker(settings)
    broker.join_or_own()
    return broker


def running_broker_url(settings: Settings) -> str | None:
    """The address of the broker to use, if one is given or an embedded one answers; starts nothing."""
    if settings.broker_url is not None:
        return _checked(settings.broker_url)
    url = read_private(settings.state_dir / "broker" / "url")
    return url if url is not None and _answers(url) else None


def redis_url(url: str) -> str:
    """Translate an address from kombu's spelling to redis-py's.

    Raises:
        SettingsError: redis-py has no address of that kind (Sentinel).
    """
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        query = parse_qs(parts.query)
        database = query.get("virtual_host", ["0"])[0].lstrip("/") or "0"
        return f"unix://{parts.netloc}{parts.path}?db={database}"
    if parts.scheme in ("redis", "rediss"):
        return url
    raise SettingsError(f"{masked(url)} can only be reached through kombu, not by redis-py")


class EmbeddedBroker(Broker):
    """The server that the processes of one state folder share.

    Safe to use from several threads. After `fork` the child neither owns nor keeps it alive.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("")
        self._folder = settings.state_dir / "broker"
        self._runtime_dir = settings.runtime_dir
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner_lock: int | None = None
        self._mutex = threading.RLock()
        _open_brokers.add(self)

    @property
    def owned(self) -> bool:
        """Whether the server ends with this process."""
        return self._owner_lock is not None

    def join_or_own(self) -> None:
        """Own the server if nobody does; else wait until the owner's server answers."""
        make_private(self._folder)
        deadline = time.monotonic() + START_WAIT_S
        # The owner may end while we wait for its server: then it is our turn.
        while time.monotonic() < deadline:
            if self._try_own() or self._try_join():
                return
            time.sleep(0.05)
        raise StorageUnavailable(
            f"another process owns the embedded broker, but its server does not answer; see {self._log}"
        )

    def ensure_alive(self) -> bool:
        """Start the server again if it died; one who joined takes over from an owner that has gone."""
        with self._mutex:
            if not self.owned:
                return self._take_over()
            assert self._guard is not None
            if self._guard.poll() is None:
                return False
            logger.warning("embedded broker ended", extra={"code": self._guard.returncode})
            self._stop_guard()  # closes our end of the pipe
            self._start()
            return True

    def close(self) -> None:
        """Stop the server if it is owned. Its data stay in the state folder."""
        with self._mutex:
            if self._owner_lock is None:
                return
            # First the address, so that nobody joins a dying server; last the lock, so that the
            # next owner finds nothing of ours running.
            (self._folder / "url").unlink(missing_ok=True)
            self._stop_guard()
            clear_place(self.url)
            os.close(self._owner_lock)
            self._owner_lock = None

    def _take_over(self) -> bool:
        if _answers(self.url):
            return False
        if self._try_own():
            return True
        self._try_join()  # the owner may have had to move to another port
        return False

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _try_own(self) -> bool:
        with self._mutex:
            lock = os.open(self._folder / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not _locked(lock):
                os.close(lock)
                return False
            self._owner_lock = lock
            try:
                self._start()
            except BaseException:
                self.close()
                raise
            return True

    def _try_join(self) -> bool:
        url = read_private(self._folder / "url")
        if url is None or not _answers(url):
            return False
        self.url = url
        return True

    def _start(self) -> None:
        server = find_server()
        previous = self.url or read_private(self._folder / "url")
        place = place_of(self._folder, self._runtime_dir, previous)
        data = self._folder / "data"
        make_private(data)
        write_private(self._folder / "server.conf", configuration(place, data))
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.1"))
        self._start_guard(server)
        try:
            self._wait_until_ready(place.url)
        except BaseException:
            self._stop_guard()
            raise
        self.url = place.url
        write_private(self._folder / "url", place.url)
        logger.info("embedded broker started", extra={"server": str(server), "url": masked(place.url)})

    def _start_guard(self, server: Path) -> None:
        # -I: the script's own folder must not be searched for modules, our `queue.py` would hide the
        # standard one. A session of its own: Ctrl-C in the terminal is not meant for it.
        command = [sys.executable, "-I", "-S", broker_guard.__file__]
        with self._server_lock() as lock, open(self._log, "wb", opener=_private_opener) as log:
            self._guard = subprocess.Popen(
                [*command, str(lock), str(server), str(self._folder / "server.conf")],
                pass_fds=(lock,),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._folder,
            )

    @contextlib.contextmanager
    def _server_lock(self) -> Iterator[int]:
        """The lock that a server holds, by inheritance, exactly as long as it lives.

        A new owner may be elected while the old one's server still writes its last lines. Two servers
        on one append-only file would corrupt it, and the old one would answer for the new.
        """
        lock = os.open(self._folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + START_WAIT_S
        try:
            while not _locked(lock):
                if time.monotonic() > deadline:
                    raise StorageUnavailable(
                        f"the embedded broker's last server does not end; see {self._log}"
                    )
                time.sleep(0.01)
            yield lock
        finally:
            os.close(lock)

    def _wait_until_ready(self, url: str) -> None:
        assert self._guard is not None
        deadline = time.monotonic() + START_WAIT_S
        while time.monotonic() < deadline:
            if _answers(url):
                return
            if self._guard.poll() is not None:
                break
            time.sleep(0.01)
        raise StorageUnavailable(
            f"the embedded broker did not start. {self._log} ends with:\n{self._last_words()}\n"
            f"If its data are damaged, remove {self._folder / 'data'}: no job is lost by that"
        )

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-LOG_LINES_SHOWN:]) or "(an empty log)"

    def _stop_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None
        guard.stdin.close()
        try:
            guard.wait(2 * broker_guard.STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            guard.kill()  # and with it, by the kernel, the server
            guard.wait()

    def _forget_after_fork(self) -> None:
        """Let go of lock and pipe in a forked child, or the server would outlive its owner by it."""
        self._mutex = threading.RLock()
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.returncode = 0  # not our child: nothing to wait for, nothing to warn about


# `os.register_at_fork` cannot be undone, so it is called once and finds the brokers here.
_open_brokers: weakref.WeakSet[EmbeddedBroker] = weakref.WeakSet()


def _forget_all_after_fork() -> None:
    for broker in list(_open_brokers):
        broker._forget_after_fork()


os.register_at_fork(after_in_child=_forget_all_after_fork)


def _checked(url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise SettingsError(f"broker_url = {masked(url)} is not of a usable kind: {', '.join(SCHEMES)}")
    return url


def _answers(url: str) -> bool:
    client = redis.Redis.from_url(
        redis_url(url), socket_timeout=PING_S, socket_connect_timeout=PING_S, retry=Retry(NoBackoff(), 0)
    )
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
