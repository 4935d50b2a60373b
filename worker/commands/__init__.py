"""The worker's commands, one module each, with a function `add_to(app)`."""

from __future__ import annotations

import typer

from . import bench, check, convert, evaluate, metrics, pull, verify

MODULES = (pull, check, convert, verify, bench, evaluate, metrics)


def add_to(app: typer.Typer) -> None:
    """Add all of them to the application."""
    for module in MODULES:
        module.add_to(app)
