"""The picture of an alignment, for a job that made none itself.

What draws is a model's business, and a producer imports no model: it is started as a program of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import NotDrawn
from .saving import save_artifact

if TYPE_CHECKING:
    from .producer import Producer

COMMAND = (sys.executable, "-P", "-m", "soundmill.models.picture")


def plot_alignment(producer: Producer, job_id: str, target: Path) -> None:
    """Write the job's picture, or draw it from its `alignment.json` and its audio.

    Raises:
        NotFound: The tenant has no such job, or its audio is gone.
        NotDrawn: The job made no alignment, or there is no matplotlib here.
        NotSaved: It could not be written.
    """
    names = {file.role: file.name for file in producer.artifacts(job_id)}
    if "picture" in names:
        save_artifact(producer, job_id, names["picture"], target)
        return
    if "alignment" not in names:
        raise NotDrawn(
            f"job {job_id} made no alignment.json to draw; align with json or png among the outputs"
        )
    with tempfile.TemporaryDirectory(prefix="soundmill-") as folder:
        alignment, audio = Path(folder) / "alignment.json", Path(folder) / "audio"
        save_artifact(producer, job_id, names["alignment"], alignment)
        save_artifact(producer, *_audio(producer, job_id), audio)
        _draw(alignment, audio, target)


def _audio(producer: Producer, job_id: str) -> tuple[str, str]:
    """The job and the file of the recording that was aligned."""
    source: dict[str, Any] = producer.get(job_id).args.get("audio") or {}
    owner, role = (source["job"], "audio") if "job" in source else (job_id, "input")
    for file in producer.artifacts(owner):
        if file.role == role and source.get("artifact") in (None, file.sha256):
            return owner, file.name
    raise NotDrawn(f"the recording of job {job_id} is not stored any more")


def _draw(alignment: Path, audio: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*COMMAND, str(alignment), str(audio), str(target.absolute())],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["the program that draws it ended without a word"]
        raise NotDrawn(last[0])
