"""The weights of a model, from a hub into its folder: `Pull`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from soundmill.storage.catalog import Model
from soundmill.storage.checkpoints import RECORD, Origin, Record, joined
from soundmill.storage.repository import Repository
from soundmill.storage.settings import Settings

from ..checkpoint_check import damage_of
from ..conversion import convert_apart
from ..errors import DownloadDamaged, HubRefused, NoRoom, PullFailed
from .hub import Hub, Listing
from .modelscope import new_session
from .selection import Selection, select, spare_shards
from .staging import Staging, pull_lock
from .transfer import WAITS_S, Advance, Transfer, digest_of

CONVERTED = "model.safetensors"
LEAST_SPARE_BYTES = 64 * 1024**2
"""What is left on a disk at least, for the others who use it."""

_SHOWN = 8

Begin = Callable[[int], AbstractContextManager[Advance]]
"""Given how many bytes there will be, shows the progress while the context lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A repository as a hub has it, and what is wanted of it."""

    repository: Repository
    listing: Listing
    selection: Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What was done.

    Attributes:
        up_to_date: Whether all of it was there before.
        kept: Where files lie that were in the way and that no pull had put there.
    """

    folder: Path
    record: Record
    up_to_date: bool
    kept: Path | None = None


class Pull:
    """Fetches the weights of one model.

    Attributes:
        chosen: What the hub was found to have, once it has answered.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        hub: Hub,
        *,
        revision: str | None = None,
        repository: str | None = None,
        say: Callable[[str], None],
        begin: Begin,
        waits_s: Sequence[float] = WAITS_S,
    ) -> None:
        """Prepare.

        Args:
            revision: Of the model's main repository; its others are fetched in their newest.
            repository: OWNER/NAME in place of the published main repository.
            say: Tells what is about to be done.
            begin: Shows how far it is.
            waits_s: As for `Transfer`.
        """
        self.folder = settings.checkpoint_of(model.id).resolve()
        self.chosen: list[Chosen] = []
        self._model = model
        self._hub = hub
        self._revision = revision
        self._name = repository
        self._say = say
        self._begin = begin
        self._waits_s = waits_s

    def run(self) -> Pulled:
        """Fetch what is lacking, compare it with the hub's checksums, convert it, and put it in its place.

        Raises:
            PullFailed: With what to do. What was fetched is kept, and nothing has taken its place yet.
            ConversionFailed: The published pickle cannot be read.
        """
        if not self._model.repositories:
            raise PullFailed(f"{self._model.id} has no weights that could be fetched")
        with pull_lock(self.folder):
            self.chosen = [
                self._choose(repository, main=number == 0)
                for number, repository in enumerate(self._model.repositories)
            ]
            present = Record.read(self.folder)
            if present is not None and self._is_up_to_date(present):
                return Pulled(folder=self.folder, record=present, up_to_date=True)
            return self._gather(present)

    def _choose(self, repository: Repository, *, main: bool) -> Chosen:
        names = repository.names.get(self._hub.name, ())
        if main and self._name is not None:
            names = (self._name,)
        if not names:
            raise HubRefused(
                f"{self._model.id} is not known to be on {self._hub.name}; leave out --from, or name a "
                "repository with --repository OWNER/NAME"
            )
        refusals: list[HubRefused] = []
        for name in names:
            try:
                listing = self._hub.list_files(name, self._revision if main else None)
                return Chosen(repository=repository, listing=listing, selection=select(listing, repository))
            except HubRefused as refusal:
                refusals.append(refusal)
        raise refusals[0]

    def _is_up_to_date(self, present: Record) -> bool:
        """Whether the hub has what an earlier pull wrote down, and the files are still as they were then."""
        if len(present.origins) != len(self.chosen):
            return False
        for origin, chosen in zip(present.origins, self.chosen, strict=True):
            listing = chosen.listing
            if (origin.hub, origin.name, origin.commit) != (listing.hub, listing.name, listing.commit):
                return False
            known = {**origin.files, **origin.converted}
            for file in chosen.selection.files:
                told = known.get(file.path)
                if file.path not in origin.left_out and (told is None or file.sha256 not in (None, told[1])):
                    return False
        return not changed_files(self.folder, present)

    def _gather(self, present: Record | None) -> Pulled:
        staging = Staging(self.folder)
        staging.open()
        for chosen in self.chosen:
            for file in chosen.selection.files:
                staging.reuse(Path(joined(chosen.repository.folder, file.path)), file)
        with new_session() as session:
            self._leave_out_shards(staging, session)
            self._check_room(staging)
            for chosen in self.chosen:
                self._say(_plan(chosen))
            total = sum(chosen.selection.bytes for chosen in self.chosen)
            with self._begin(total) as advance:
                transfer = Transfer(session, advance, waits_s=self._waits_s)
                fetched = [self._fetch(staging, chosen, transfer) for chosen in self.chosen]
        origins = [
            self._origin(staging, chosen, digests)
            for chosen, digests in zip(self.chosen, fetched, strict=True)
        ]
        return self._publish(staging, tuple(origins), present)

    def _leave_out_shards(self, staging: Staging, session: object) -> None:
        """Fetch the lists of tensors, which tell what else is of no use."""
        for number, chosen in enumerate(self.chosen):
            repository, selection = chosen.repository, chosen.selection
            index = next((file for file in selection.files if file.path == repository.index), None)
            if index is None or not repository.tensors:
                continue
            target = staging.path / joined(repository.folder, index.path)
            transfer = Transfer(session, lambda more: None, waits_s=self._waits_s)
            transfer.fetch(self._hub.source(chosen.listing, index), index, target)
            narrowed = selection.without(spare_shards(target, repository.tensors))
            self.chosen[number] = Chosen(repository=repository, listing=chosen.listing, selection=narrowed)

    def _check_room(self, staging: Staging) -> None:
        wanted = 0
        for chosen in self.chosen:
            for file in chosen.selection.files:
                target = staging.path / joined(chosen.repository.folder, file.path)
                part = target.with_name(f"{target.name}.part")
                there = next((path.stat().st_size for path in (target, part) if path.is_file()), 0)
                wanted += max((file.bytes or 0) - there, 0)
            if chosen.selection.pickle is not None:
                wanted += chosen.selection.pickle.bytes or 0  # the converted copy
        free = staging.room() - LEAST_SPARE_BYTES
        if wanted > free:
            raise NoRoom(
                f"{self._model.id} needs {in_words(wanted)} more in {staging.path.parent}, where "
                f"{in_words(max(free, 0))} are free; free some space, or choose another models_dir or "
                "checkpoint_dirs"
            )

    def _fetch(self, staging: Staging, chosen: Chosen, transfer: Transfer) -> dict[str, tuple[int, str]]:
        """Bytes and SHA-256 of each file."""
        digests = {}
        for file in chosen.selection.files:
            target = staging.path / joined(chosen.repository.folder, file.path)
            sha256 = transfer.fetch(self._hub.source(chosen.listing, file), file, target)
            digests[file.path] = (target.stat().st_size, sha256)
        return digests

    def _origin(self, staging: Staging, chosen: Chosen, digests: dict[str, tuple[int, str]]) -> Origin:
        """What is written down of a repository, whose pickle becomes safetensors first."""
        listing, selection = chosen.listing, chosen.selection
        converted: dict[str, tuple[int, str]] = {}
        if selection.pickle is not None:
            self._say(f"converting {selection.pickle.path} to {CONVERTED}")
            place = staging.path / chosen.repository.folder
            made = place / CONVERTED
            made.unlink(missing_ok=True)  # of an interrupted pull, perhaps of another revision
            convert_apart(place)
            converted[selection.pickle.path] = digests.pop(selection.pickle.path)
            digests[CONVERTED] = (made.stat().st_size, digest_of(made).sha256)
        return Origin(
            hub=listing.hub,
            name=listing.name,
            folder=chosen.repository.folder,
            revision=listing.revision,
            commit=listing.commit,
            files=digests,
            left_out={file.path: file.bytes for file in selection.left_out},
            converted=converted,
        )

    def _publish(self, staging: Staging, origins: tuple[Origin, ...], present: Record | None) -> Pulled:
        record = Record(
            model=self._model.id, pulled_at=datetime.now(UTC).isoformat(timespec="seconds"), origins=origins
        )
        files = _files_of(record)
        (staging.path / RECORD).write_text(record.text(), encoding="utf-8")
        if (damage := damage_of(staging.path)) is not None:
            raise DownloadDamaged(f"what the hub has is not whole: {damage}")
        kept = staging.publish([*files, Path(RECORD)], _files_of(present) if present is not None else ())
        return Pulled(folder=self.folder, record=record, up_to_date=False, kept=kept)


def changed_files(folder: Path, record: Record) -> list[str]:
    """The files of a folder that are not as a pull left them. All of them are read."""
    changed = []
    for origin in record.origins:
        for name, (size, sha256) in origin.files.items():
            path = folder / joined(origin.folder, name)
            if not path.is_file():
                changed.append(f"{path} is missing")
            elif path.stat().st_size != size:
                changed.append(f"{path} has {path.stat().st_size} bytes, not {size}")
            elif (found := digest_of(path).sha256) != sha256:
                changed.append(f"{path} has SHA-256 {found}, not {sha256}")
    return changed


def in_words(size: int) -> str:
    """A number of bytes for people."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def _files_of(record: Record) -> list[Path]:
    return [Path(joined(origin.folder, name)) for origin in record.origins for name in origin.files]


def _plan(chosen: Chosen) -> str:
    listing, selection = chosen.listing, chosen.selection
    told = (
        f"{listing.name} on {listing.hub}, {listing.commit or listing.revision}: {len(selection.files)} files, "
        f"{in_words(selection.bytes)}"
    )
    if not selection.left_out:
        return told
    spare = sorted(selection.left_out, key=lambda file: (-(file.bytes or 0), file.path))
    shown = ", ".join(file.path for file in spare[:_SHOWN])
    more = f" and {len(spare) - _SHOWN} more" if len(spare) > _SHOWN else ""
    return f"{told}; left out: {shown}{more} ({in_words(sum(file.bytes or 0 for file in spare))})"
