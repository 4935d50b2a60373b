"""A port for a server that a test starts."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One of loopback that nobody listens on; whoever wants it should take it soon."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])
