"""A batch as files: in folders of a thousand jobs, with what is known of them beside it.

    DIR/0000/<custom id>.wav …    the first thousand jobs of the batch, in order of acceptance
    DIR/metadata.jsonl            a line for each completed job
    DIR/failures.jsonl            a line for each that was discarded or cancelled
    DIR/README.md                 what it is and where it comes from

A job's place depends on its place in the batch only. The same export again copies what is new, be it
that it was interrupted or that more jobs are complete, and writes the three files anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundmill.producer import lookup
from soundmill.producer.batches import pages
from soundmill.storage.errors import NotFound
from soundmill.storage.lifecycle import State
from soundmill.storage.retention import hold_batch

from . import entry
from .acestep import Dataset, is_looked_for
from .card import Contents, written
from .entry import Shape
from .names import file_names, stems
from .target import Lines, Target

if TYPE_CHECKING:
    from soundmill.producer.producer import Producer
    from soundmill.storage.listing import ArtifactView, JobView

JOBS_IN_FOLDER = 1000
GONE = "artifact_gone"
PRUNED = "it was pruned, and its files with it; submit it again, with another key, to have them anew"


class Exporter:
    """Writes one batch into one folder."""

    def __init__(
        self,
        producer: Producer,
        batch: str,
        folder: Path,
        *,
        shape: Shape = Shape.FOLDER,
        role: str | None = None,
        seen: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Prepare an export.

        Args:
            producer: Whose batch it is.
            batch: Its name.
            folder: Where to; made if it is not there.
            shape: What is written.
            role: Of the files that are wanted; `None` takes the audio for an audiofolder, else all
                that the jobs made, the metrics aside.
            seen: Told how many jobs were looked at, after each folder.
        """
        self._producer = producer
        self._batch = batch
        self._target = Target(folder)
        self._shape = shape
        self._role = role
        self._seen = seen
        self._contents = Contents()
        self._dataset: Dataset | None = None
        self._taken: set[str] | None = None  # names that later folders may not use again

    def run(self) -> Contents:
        """Write everything; return what it holds.

        Raises:
            NotFound: The tenant has no such batch.
            NotSaved: A file could not be written; those that were stay, and nothing is half-written.
            StorageUnavailable: The job table or the blobs did not answer.
        """
        tenant = self._producer.settings.tenant
        with self._producer.database.read() as connection:
            lookup.batch_of(connection, tenant, self._batch)
        self._hold(tenant)
        self._contents = Contents()
        if self._shape == Shape.ACESTEP:
            self._dataset, self._taken = Dataset(self._batch), set()
            self._contents.lacked = "no caption or no audio, and are left out of the data set"
        with self._target.held():
            with self._target.lines("metadata.jsonl") as good, self._target.lines("failures.jsonl") as bad:
                number = 0
                for place, page in enumerate(pages(self._producer, self._batch, (), JOBS_IN_FOLDER)):
                    self._hold(tenant)
                    self._write_page(f"{place:04}", page, good, bad)
                    number += len(page)
                    self._seen(number)
            if self._dataset is not None:
                self._dataset.write(self._target)
                self._contents.warnings = tuple(self._dataset.warnings.sentences())
            card = written(self._batch, self._contents, self._shape, self._producer.catalog)
            self._target.write("README.md", card)
        return self._contents

    def _hold(self, tenant: str) -> None:
        """Nothing that an export reads is pruned meanwhile."""
        database = self._producer.database
        database.retrying(lambda connection: hold_batch(connection, database, f"{tenant}/{self._batch}"))

    def _write_page(self, folder: str, page: Sequence[JobView], good: Lines, bad: Lines) -> None:
        names = stems(page, self._taken)
        if self._dataset is not None:
            _name_inputs(self._dataset, page, folder, names)
        artifacts = self._artifacts([job for job in page if job.state == State.COMPLETED])
        path = None
        for job in page:
            if job.pruned_at is not None:
                self._gone(job, PRUNED, bad)
            elif job.state == State.COMPLETED:
                files = entry.wanted(artifacts.get(job.id, ()), self._shape, self._role)
                if self._dataset is not None:
                    self._write_sample(self._dataset, job, files, (folder, names[job.id]), good, bad)
                    continue
                if files and self._shape != Shape.JSONL:
                    path = path or self._target.folder(folder)
                self._write_job(job, file_names(names[job.id], files), path, good, bad)
            elif job.state.final:
                self._fail(job, bad)
            else:
                self._contents.unfinished += 1

    def _artifacts(self, jobs: Sequence[JobView]) -> Mapping[str, Sequence[ArtifactView]]:
        """The files of completed jobs, by id; with the audio that they heard, where it is another job's."""
        if not jobs:
            return {}
        sources = entry.heard(jobs) if self._shape in (Shape.AUDIOFOLDER, Shape.ACESTEP) else {}
        ids = {job.id for job in jobs} | set(sources.values())
        with self._producer.database.read() as connection:
            found = lookup.artifacts_of_jobs(connection, self._producer.settings.tenant, ids)
        audio = {
            job_id: [file for file in found.get(source, ()) if file.role == entry.ROLE_OF_AUDIO]
            for job_id, source in sources.items()
        }
        return {job.id: [*found.get(job.id, ()), *audio.get(job.id, ())] for job in jobs}

    def _write_sample(
        self,
        dataset: Dataset,
        job: JobView,
        files: Sequence[ArtifactView],
        place: tuple[str, str],
        good: Lines,
        bad: Lines,
    ) -> None:
        """Let a data set learn what a job found out about its audio, which is copied once."""
        try:
            line = self._sample_line(dataset, job, files, place)
        except NotFound as error:
            self._gone(job, str(error), bad)
            return
        if line is not None:
            good.add(line)
        self._contents.complete(job)

    def _sample_line(
        self, dataset: Dataset, job: JobView, files: Sequence[ArtifactView], place: tuple[str, str]
    ) -> dict[str, Any] | None:
        """The line of a job in metadata.jsonl; `None` if it adds nothing to a data set."""
        if not files or not isinstance((job.result or {}).get("caption"), str):
            self._contents.missing += 1
            return None
        audio = files[0]
        folder, stem = dataset.place(audio.sha256, *place)
        [(_, name)] = file_names(stem, [audio])
        if not is_looked_for(name):
            dataset.warnings.unread[Path(name).suffix] += 1
            return None
        if audio.sha256 not in dataset:
            path = self._place(job, audio, name, self._target.folder(folder))
            assert path is not None
            dataset.begin(audio.sha256, path)
        facts = dataset.learn(audio.sha256, job)
        return entry.flat(job, dataset.path(audio.sha256)) | facts

    def _write_job(
        self,
        job: JobView,
        files: list[tuple[ArtifactView, str]],
        folder: Path | None,
        good: Lines,
        bad: Lines,
    ) -> None:
        try:
            paths = [(file, self._place(job, file, name, folder)) for file, name in files]
        except NotFound as error:
            self._gone(job, str(error), bad)
            return
        if self._shape != Shape.AUDIOFOLDER:
            good.add(entry.described(job, paths))
        elif paths and paths[0][1] is not None:
            good.add(entry.flat(job, paths[0][1]))
        if not files and (self._role is not None or self._shape == Shape.AUDIOFOLDER):
            self._contents.missing += 1
        self._contents.complete(job)

    def _place(self, job: JobView, file: ArtifactView, name: str, folder: Path | None) -> str | None:
        """Copy a file unless it is there; return its path inside the export."""
        if folder is None:
            return None
        path, time_s = folder / name, float(int(job.finished_at or 0.0))
        if self._target.has(path, file.size, time_s):
            self._contents.kept += 1
        else:
            with self._producer.blobs.open(file.sha256) as source:
                self._target.copy(source, path, time_s)
            self._contents.copied += 1
        self._contents.bytes += file.size
        return f"{folder.name}/{name}"

    def _gone(self, job: JobView, why: str, bad: Lines) -> None:
        bad.add(entry.failed(job) | {"error_code": GONE, "error": why})
        self._contents.failed += 1
        self._contents.failures[GONE] += 1

    def _fail(self, job: JobView, bad: Lines) -> None:
        bad.add(entry.failed(job))
        self._contents.failed += 1
        self._contents.failures[job.error_code or "(none)"] += 1


def _name_inputs(dataset: Dataset, page: Sequence[JobView], folder: str, names: Mapping[str, str]) -> None:
    """Name stored audio after the first job that names it, so that it is called the same when more is done."""
    for job in page:
        audio = job.args.get("audio")
        if isinstance(audio, Mapping) and isinstance(audio.get("artifact"), str):
            dataset.place(audio["artifact"], folder, names[job.id])
