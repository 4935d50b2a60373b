"""The folders of checkpoints on this host: what is there, and what a pull wrote down about it.

A pull works in a hidden folder beside the model's own and renames it when all is whole, so that a folder of a
model's name never holds half a download. What it fetched stands in `soundmill.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from .catalog import Model
from .repository import PublishedFile, Repository
from .settings import Settings

RECORD = "soundmill.json"
"""The file beside the weights that says where they came from."""

State = Literal["built in", "installed", "unconverted", "incomplete", "interrupted", "absent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the files of one repository came from.

    Attributes:
        folder: Where they lie, in the folder of the model.
        revision: As it was asked for: a branch, a tag or a commit.
        commit: What that was; `None` where the hub does not tell.
        files: Bytes and SHA-256 of each file, those that were made by a conversion among them.
        left_out: Bytes of the files that were not fetched.
        converted: The pickle that the weights were made of and that was removed then: its bytes and SHA-256.
    """

    hub: str
    name: str
    folder: str
    revision: str
    commit: str | None
    files: Mapping[str, tuple[int, str]]
    left_out: Mapping[str, int | None]
    converted: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """In one word: `csm-1b@1234567`."""
        return f"{self.name}@{self.commit or self.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a pull wrote down: the model, when, and the origins, the model's main repository first."""

    model: str
    pulled_at: str
    origins: tuple[Origin, ...]

    @property
    def revision(self) -> str:
        """All revisions in one line, for stamps."""
        return " ".join(origin.shown for origin in self.origins)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record of a folder; `None` where there is none that can be read."""
        try:
            raw = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            origins = tuple(_origin(entry) for entry in raw["origins"])
            return cls(model=str(raw["model"]), pulled_at=str(raw["pulled_at"]), origins=origins)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def text(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def left_out(self) -> Iterator[str]:
        """The files that are published but were not fetched, relative to the folder of the model."""
        for origin in self.origins:
            yield from (joined(origin.folder, name) for name in origin.left_out)


def revision_of(folder: Path) -> str | None:
    """Of which revision the checkpoint in a folder is; `None` where no pull put it there."""
    record = Record.read(folder)
    return record.revision if record is not None else None


def staging_of(folder: Path) -> Path:
    """Where a pull gathers the files of a folder."""
    return folder.with_name(f".{folder.name}.part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What there is of a model on this host.

    Attributes:
        folder: Where its weights are, or would be; `None` where it has none.
        missing: Files that are needed and not there.
        revision: Of what a pull fetched.
    """

    state: State
    folder: Path | None
    missing: tuple[str, ...] = ()
    revision: str | None = None

    @property
    def shown(self) -> str:
        """The state and the folder in a line."""
        where = "" if self.folder is None else f": {self.folder}"
        return f"{self.state}{where}"

    @classmethod
    def find(cls, settings: Settings, model: Model) -> Self:
        """Look at the folder of a model; only names are looked at, not what is in the files."""
        if not model.has_weights:
            return cls(state="built in", folder=None)
        folder = settings.checkpoint_of(model.id)
        if not folder.is_dir():
            begun = staging_of(folder).is_dir()
            return cls(state="interrupted" if begun else "absent", folder=folder)
        chosen = settings.model_options.get(model.id)
        extra = {} if chosen is None else chosen.extra
        looked = [_look(folder, repository, extra) for repository in model.repositories]
        missing = tuple(name for names, _ in looked for name in names)
        if missing:
            return cls(state="incomplete", folder=folder, missing=missing)
        if any(pickled for _, pickled in looked):
            return cls(state="unconverted", folder=folder)
        return cls(state="installed", folder=folder, revision=revision_of(folder))


def _look(folder: Path, repository: Repository, extra: Mapping[str, str]) -> tuple[list[str], bool]:
    """The needed files that are not there, by their usual paths, and whether the weights are a pickle still."""
    places = [folder / place for place in (repository.folder, *repository.also_at)]
    if repository.setting is not None and repository.setting in extra:
        places = [Path(extra[repository.setting])]
    there = (place for place in places if (place / "config.json").is_file())
    place = next(there, places[0])
    missing = [file.name for file in repository.files if file.needed and not _present(place, file)]
    whole = any(all(_present(place, file) for file in form) for form in repository.weights)
    pickled = not whole and repository.pickle is not None and _present(place, repository.pickle)
    if not whole and not pickled:
        missing.append(repository.shown_weights[0].name)
    return [joined(repository.folder, name) for name in missing], pickled


def _present(place: Path, file: PublishedFile) -> bool:
    return any(path.is_file() for path in place.glob(file.name))


def _origin(raw: Mapping[str, Any]) -> Origin:
    files, converted = (
        {str(name): (int(size), str(digest)) for name, (size, digest) in raw[key].items()}
        for key in ("files", "converted")
    )
    return Origin(
        hub=str(raw["hub"]),
        name=str(raw["name"]),
        folder=str(raw["folder"]),
        revision=str(raw["revision"]),
        commit=None if raw["commit"] is None else str(raw["commit"]),
        files=files,
        left_out={str(name): size for name, size in raw["left_out"].items()},
        converted=converted,
    )


def joined(folder: str, name: str) -> str:
    """The path of a file of a repository, in the folder of the model."""
    return f"{folder}/{name}" if folder else name
