"""`python -m soundmill.worker`: the worker's commands without the producer's."""

from __future__ import annotations

import typer

from .cli import commands


def main() -> None:
    """Run the commands `up`, `worker` and `doctor`."""
    app = typer.Typer(no_args_is_help=True, add_completion=False)
    commands(app)
    app()


if __name__ == "__main__":
    main()
