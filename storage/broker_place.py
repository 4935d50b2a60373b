"""Where the embedded broker listens, and the private folders and files around it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from .errors import SettingsError

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An address to listen on: as kombu spells it, and as the server's configuration does."""

    url: str
    directives: str


def place_of(state: Path, runtime_dir: Path | None, previous: str | None) -> Place:
    """Choose a unix socket in a private folder, or a loopback port with a password if none can be had.

    Args:
        state: The broker's folder in the state folder; the socket's folder is named after it.
        runtime_dir: Where sockets belong on this host, if it says so.
        previous: The address of an earlier start. A port is kept, so that clients find it again.
    """
    # A socket's path may have 107 bytes, and a state folder's may be longer: hence the hash.
    name = hashlib.sha256(os.fsencode(state)).hexdigest()[:12]
    users = f"soundmill-{os.geteuid()}"
    temporary = [Path(root) / users for root in dict.fromkeys((tempfile.gettempdir(), "/tmp"))]
    for folder in [*([runtime_dir] if runtime_dir else []), *temporary]:
        path = folder / name / "s"
        try:
            make_private(folder)
            make_private(path.parent)
            _try_bind(path)
        except (OSError, SettingsError) as error:
            with contextlib.suppress(OSError):
                path.parent.rmdir()
            logger.warning("no broker socket there", extra={"path": str(path), "reason": str(error)})
            continue
        return Place(
            url=f"redis+socket://{quote(str(path))}",
            directives=f"port 0\nunixsocket {quoted(path)}\nunixsocketperm 700",
        )
    return _loopback(previous)


def clear_place(url: str) -> None:
    """Remove the socket's folder after the server has ended, so that none of them pile up."""
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        with contextlib.suppress(OSError):
            Path(unquote(parts.path)).unlink(missing_ok=True)
            Path(unquote(parts.path)).parent.rmdir()


def quoted(path: Path) -> str:
    """The path as one word of the server's configuration file."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def make_private(folder: Path) -> None:
    """Make sure that the folder is there, ours and closed to others.

    Raises:
        SettingsError: It belongs to somebody else, is a link, or others may write into it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SettingsError(
            f"{folder} must be a folder of yours that nobody else can write to: chmod 700 it, remove it, "
            "or choose another state_dir or runtime_dir"
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step, so that a reader sees the old text or the new, and nobody else any."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_private(path: Path) -> str | None:
    """Read what `write_private` wrote, unless it is missing or somebody else's."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, encoding="utf-8") as file:
        return file.read().strip() if os.fstat(handle).st_uid == os.geteuid() else None


def _try_bind(path: Path) -> None:
    """Learn now whether a socket can be there: too long a path, or a file system without sockets."""
    # Not at the path itself: an earlier server may still be closing it.
    probe = path.with_name(f"{path.name}{secrets.token_hex(2)}")
    with socket.socket(socket.AF_UNIX) as trial:
        trial.bind(str(probe))
    probe.unlink()


def _loopback(previous: str | None) -> Place:
    parts = urlsplit(previous or "")
    if parts.scheme == "redis" and parts.password and parts.port and _free(parts.port):
        port, password = parts.port, parts.password
    else:
        port, password = _free(0), secrets.token_urlsafe(24)
    return Place(
        url=f"redis://:{password}@{LOOPBACK}:{port}/0",
        directives=f"bind {LOOPBACK}\nport {port}\nrequirepass {password}",
    )


def _free(port: int) -> int:
    """The port, or one that the kernel chooses for 0; 0 if it is taken."""
    with socket.socket() as trial:
        # As the server does it: the last connections to the port may linger in TIME_WAIT.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((LOOPBACK, port))
        except OSError:
            return 0
        return int(trial.getsockname()[1])
