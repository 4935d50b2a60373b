"""Which files of a listing a model needs, and which are left where they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soundmill.storage.repository import PublishedFile, Repository

from ..errors import DownloadDamaged, HubRefused
from .hub import Listing, RemoteFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The files of a repository, sorted.

    Attributes:
        files: To be fetched.
        left_out: Not needed.
        pickle: Of the files, the one that has to be converted.
    """

    files: tuple[RemoteFile, ...]
    left_out: tuple[RemoteFile, ...]
    pickle: RemoteFile | None = None

    @property
    def bytes(self) -> int:
        """Of all files to be fetched, as far as their sizes are known."""
        return sum(file.bytes or 0 for file in self.files)

    def without(self, names: set[str]) -> Selection:
        """The same, with some files left out as well."""
        spare = tuple(file for file in self.files if file.path in names)
        files = tuple(file for file in self.files if file.path not in names)
        return Selection(files=files, left_out=(*self.left_out, *spare), pickle=self.pickle)


def select(listing: Listing, repository: Repository) -> Selection:
    """Sort the files of a listing.

    Raises:
        HubRefused: A file is lacking that the model needs.
    """
    paths = {file.path: file for file in listing.files}
    chosen: list[RemoteFile] = []
    missing: list[str] = []
    for file in repository.files:
        found = [remote for path, remote in paths.items() if file.matches(path)]
        chosen += found
        if not found and file.needed:
            missing.append(file.name)
    form, pickle = _weights(paths, repository)
    if not form:
        missing.append(" or ".join(dict.fromkeys(form[0].name for form in repository.weights)))
    if missing:
        raise HubRefused(
            f"{listing.name} on {listing.hub} has no {', '.join(missing)}: it is not the published "
            f"{repository.what}"
        )
    files = tuple(dict.fromkeys((*chosen, *form)))
    left_out = tuple(file for file in listing.files if file not in files)
    return Selection(files=files, left_out=left_out, pickle=pickle)


def _weights(
    paths: Mapping[str, RemoteFile], repository: Repository
) -> tuple[list[RemoteFile], RemoteFile | None]:
    for form in repository.weights:
        found = [_matching(paths, file) for file in form]
        if all(found):
            return [remote for matches in found for remote in matches], None
    if repository.pickle is not None and (found_pickle := _matching(paths, repository.pickle)):
        return found_pickle, found_pickle[0]
    return [], None


def _matching(paths: Mapping[str, RemoteFile], file: PublishedFile) -> list[RemoteFile]:
    return [remote for path, remote in paths.items() if file.matches(path)]


def spare_shards(index: Path, prefixes: tuple[str, ...]) -> set[str]:
    """The files of the weights that hold nothing that is needed, by the index of a checkpoint.

    Args:
        index: A `model.safetensors.index.json`.
        prefixes: What the names of needed tensors begin with.

    Raises:
        DownloadDamaged: It is no index.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        needed = {str(file) for name, file in places.items() if name.startswith(prefixes)}
        return {str(file) for file in places.values()} - needed
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadDamaged(f"{index.name} is no list of tensors; do not use this repository") from error
