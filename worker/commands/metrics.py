"""`soundmill metrics`: what the job table and Redis hold, for a Prometheus."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

PORT = 9540

logger = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Metrics of the deployment; those of a host's cards are served with the setting metrics_port.",
        no_args_is_help=True,
    )
    group.command("serve")(serve)
    group.command("show")(show)
    app.add_typer(group, name="metrics")


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")] = PORT,
    address: Annotated[
        str | None,
        typer.Option(help="Address to listen on; default: the setting metrics_address, which is loopback."),
    ] = None,
) -> None:
    """Serve them until Ctrl-C. One such process is enough for all hosts of a deployment."""
    from contextlib import closing

    from soundmill.storage.settings import load_settings

    from ..logs import configure_logging
    from ..metrics.exporter import Exporter
    from ..metrics.server import MetricsServer
    from ..stack import Stop

    configure_logging()
    settings = load_settings()
    stop = Stop(at_end_of_input=False)
    with (
        closing(Exporter(settings)) as exporter,
        MetricsServer(exporter.registry, address=address or settings.metrics_address, port=port) as server,
    ):
        typer.echo(f"metrics: {server.url}", err=True)
        while not stop.wait(3600):
            pass


def show() -> None:
    """Print them once, for the textfile collector of a node exporter, or to look at."""
    from contextlib import closing

    from prometheus_client import generate_latest

    from soundmill.storage.settings import load_settings

    from ..metrics.exporter import Exporter

    with closing(Exporter(load_settings())) as exporter:
        typer.echo(generate_latest(exporter.registry).decode(), nl=False)
