"""The end of a command whose work failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def failing() -> Iterator[None]:
    """Turn an error that has a sentence for people into that sentence and exit code 1.

    The program's own table of errors knows those of producer and storage, and not a worker's or a model's.
    """
    from soundmill.models.errors import ModelError

    from ..errors import WorkerError

    try:
        yield
    except (WorkerError, ModelError) as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error
