"""Where to put which files when this host cannot fetch them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from soundmill.storage.catalog import Model
from soundmill.storage.checkpoints import joined
from soundmill.storage.repository import HUBS, PublishedFile, Repository
from soundmill.storage.settings import Settings

from ..errors import PullFailed
from .hub import open_hub
from .pull import Chosen, in_words

_SMALL = ("config.json", ".index.json", "README.md", "LICENSE")


def instructions(settings: Settings, model: Model, folder: Path, chosen: Sequence[Chosen]) -> Iterator[str]:
    """Lines for somebody who carries the files.

    Args:
        folder: Of the model.
        chosen: What a hub was found to have, where it answered; else the published list is shown.
    """
    for number, repository in enumerate(model.repositories):
        pages = " or ".join(_pages(settings, repository))
        yield f"To put the {repository.what} there by hand, take from {pages}:"
        if number < len(chosen):
            yield from _listed(folder, chosen[number])
        else:
            yield from _published(folder, repository)
        if repository.pickle is not None:
            pickle = folder / joined(repository.folder, repository.pickle.name)
            yield f"A {pickle.name} has to be converted then: soundmill models convert {pickle.parent}"
    yield f"Then: soundmill models check {model.id}"


def _pages(settings: Settings, repository: Repository) -> Iterable[str]:
    for name in HUBS:
        if names := repository.names.get(name):
            try:
                yield open_hub(settings, name).page(names[0])
            except PullFailed:  # its library is missing
                yield f"{names[0]} on {name}"


def _listed(folder: Path, chosen: Chosen) -> Iterator[str]:
    for file in chosen.selection.files:
        size = "size unknown" if file.bytes is None else f"{file.bytes:,} bytes"
        yield f"  {folder / joined(chosen.repository.folder, file.path)}  ({size})"


def _published(folder: Path, repository: Repository) -> Iterator[str]:
    for file in (*repository.files, *repository.shown_weights):
        optional = "" if file.needed else ", not needed to load"
        yield f"  {folder / joined(repository.folder, file.name)}  ({_size(file)}{optional})"


def _size(file: PublishedFile) -> str:
    together = " together: all that the index names" if "*" in file.name else ""
    if file.bytes is None:
        return "a few kB" if file.name.endswith(_SMALL) else f"its size is not known here{together}"
    if file.exact:
        return f"{file.bytes:,} bytes"
    return f"about {in_words(file.bytes)}{together}"
