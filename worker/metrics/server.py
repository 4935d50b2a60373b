"""The HTTP server that a Prometheus asks; on loopback unless told otherwise, since it asks for no password."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server

from soundmill.storage.errors import SettingsError

STOP_S = 5.0


class MetricsServer:
    """Serves a registry from a thread of its own until it is closed.

    Attributes:
        url: Where the numbers are.
    """

    def __init__(self, registry: CollectorRegistry, *, address: str, port: int) -> None:
        """Listen.

        Args:
            registry: What is served. A collector must not raise.
            address: Of an interface of this host.
            port: 0 takes a free one.

        Raises:
            SettingsError: The address or the port cannot be had.
        """
        try:
            self._server, self._thread = start_http_server(port, addr=address, registry=registry)
        except OSError as error:
            raise SettingsError(
                f"metrics cannot be served at {address}:{port} ({error.strerror or error}); "
                "choose another port, or an address of this host"
            ) from error
        host = f"[{address}]" if ":" in address else address
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
