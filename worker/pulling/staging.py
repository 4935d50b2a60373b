"""The hidden folder where the files of a model are gathered until all are whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from soundmill.storage.checkpoints import RECORD, staging_of

from ..errors import PullBusy, PullFailed
from .hub import RemoteFile
from .transfer import is_listed

WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt")


class Staging:
    """A folder that becomes the model's own when it is complete."""

    def __init__(self, folder: Path) -> None:
        """Gather for `folder`, which may exist."""
        self.folder = folder
        self.path = staging_of(folder)
        self._aside = f".{folder.name}.old-"

    def open(self) -> None:
        """Make the folder, or take up what an interrupted pull left in it.

        A pull that was killed between the two halves of `publish` left no folder of the model: what it had set
        aside takes its place again.

        Raises:
            PullFailed: There is a link in its place, or the folder beside it cannot be written.
        """
        try:
            if not self.folder.exists() and (aside := self._set_aside_before()) is not None:
                aside.rename(self.folder)
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PullFailed(f"{self.path} cannot be made ({error.strerror})") from error
        for place in (self.path, *self.path.rglob("*")):
            if place.is_symlink():
                raise PullFailed(f"{place} is a link, which no pull makes; remove it")

    def reuse(self, place: Path, file: RemoteFile) -> None:
        """Take a file out of the present folder, if it is the one that is listed.

        Args:
            place: Its path in the folder of the model.
        """
        own, present = self.path / place, self.folder / place
        if own.exists() or not present.is_file() or is_listed(present.resolve(), file) is None:
            return
        own.parent.mkdir(parents=True, exist_ok=True)
        try:
            own.hardlink_to(present.resolve())
        except OSError:  # another disk, or one without links
            unfinished = own.with_name(f"{own.name}.part")
            shutil.copyfile(present, unfinished)
            unfinished.replace(own)

    def room(self) -> int:
        """How many bytes there is room for."""
        return shutil.disk_usage(self.path).free

    def publish(self, files: Iterable[Path], replaced: Iterable[Path]) -> Path | None:
        """Put the gathered files in the place of the present ones, all at once.

        What else lies in the present folder, such as recordings of voices, moves over; weights do not, because
        a model might take them for its own.

        Args:
            files: Paths in the folder that belong to the model; others are leftovers of earlier tries.
            replaced: Those that an earlier pull put into the present folder.

        Returns:
            Where files of the present folder are kept that no pull put there; `None` where there are none.
        """
        wanted = set(files)
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path.is_file() and path.relative_to(self.path) not in wanted:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        for folder in {(self.path / file).parent for file in wanted}:
            _sync(folder)
        before = self._set_aside()
        self.path.rename(self.folder)
        _sync(self.folder.parent)
        return None if before is None else self._sort_out(before, set(replaced))

    def _set_aside(self) -> Path | None:
        if not self.folder.exists():
            return None
        before = Path(mkdtemp(prefix=self._aside, dir=self.folder.parent))
        self.folder.rename(before)
        return before

    def _set_aside_before(self) -> Path | None:
        found = sorted(self.folder.parent.glob(f"{self._aside}*"), key=lambda path: path.stat().st_mtime)
        return found[-1] if found else None

    def _sort_out(self, before: Path, replaced: set[Path]) -> Path | None:
        kept = False
        for path in sorted(before.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            place = path.relative_to(before)
            now = self.folder / place
            if place in replaced or place == Path(RECORD) or (now.exists() and now.samefile(path)):
                continue
            if now.exists() or path.name.endswith(WEIGHTS):
                kept = True
                continue
            now.parent.mkdir(parents=True, exist_ok=True)
            path.rename(now)
        if kept:
            return before
        shutil.rmtree(before, ignore_errors=True)
        return None


@contextmanager
def pull_lock(folder: Path) -> Iterator[None]:
    """Be the only one who fetches into a folder.

    Raises:
        PullBusy: Another process does.
        PullFailed: The folder beside it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.with_name(f".{folder.name}.lock").open("a+")
    except OSError as error:
        raise PullFailed(f"{folder.parent} cannot be written ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise PullBusy(
                f"process {file.read().strip() or '?'} fetches into {folder} at this moment; wait for it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
