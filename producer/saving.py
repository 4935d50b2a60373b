"""Artifacts on the submitter's own disk."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import NotSaved

if TYPE_CHECKING:
    from .producer import Producer

_LONGEST = 100


def save_artifacts(producer: Producer, job_id: str, folder: Path) -> list[Path]:
    """Write the files that a job made into a folder, which is made if it is not there.

    Returns:
        Where they lie now, by name.

    Raises:
        NotFound: The tenant has no such job.
        NotSaved: They could not be written.
    """
    saved = []
    for file in producer.artifacts(job_id):
        if file.role != "input":
            target = folder / safe_name(file.name)
            save_artifact(producer, job_id, file.name, target)
            saved.append(target)
    return saved


def save_artifact(producer: Producer, job_id: str, name: str, target: Path) -> None:
    """Write one file of a job, whole or not at all; one that is there is replaced.

    Raises:
        NotFound: There is no such job or file.
        NotSaved: It could not be written.
    """
    with producer.open_artifact(job_id, name) as source:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=target.parent, prefix=".soundmill-")
            try:
                with os.fdopen(handle, "wb") as file:
                    shutil.copyfileobj(source, file, 1024 * 1024)
                # mkstemp makes it private; a file that was asked for has the usual rights.
                Path(unfinished).chmod(0o666 & ~_umask())
                Path(unfinished).replace(target)
            except BaseException:
                Path(unfinished).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise NotSaved(f"{target} cannot be written: {error.strerror}") from error


def safe_name(text: str) -> str:
    """A file name of what somebody else chose: no path, no control characters, never empty."""
    name = re.sub(r"[^\w.+@=-]+", "_", text).lstrip(".-=+@")[:_LONGEST]
    return name or "unnamed"


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
