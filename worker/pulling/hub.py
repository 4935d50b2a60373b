"""What a hub lists, and the port behind which both hubs are alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

from soundmill.storage.checkpoints import RECORD
from soundmill.storage.repository import HubName
from soundmill.storage.settings import Settings

from ..errors import DownloadDamaged

SLOW_S = 60.0
"""Longest silence of a hub."""

_COMMIT = re.compile(r"[0-9A-Za-z]{7,64}")
_LONGEST = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a listing.

    Attributes:
        path: In its repository, checked by `checked_path`.
        bytes: Its size; `None` where the hub does not tell.
        sha256: Of its content, in lower case.
        git_sha1: Of its content as git counts it, where there is no SHA-256.
    """

    path: str
    bytes: int | None
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a repository at one revision.

    Attributes:
        name: OWNER/NAME.
        revision: As it was asked for.
        commit: What that is now, where the hub tells.
    """

    hub: HubName
    name: str
    revision: str
    commit: str | None
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the content of a file is asked for."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Hub(Protocol):
    """A place where models are published."""

    name: HubName

    def page(self, repository: str) -> str:
        """The address of a repository for people."""

    def list_files(self, repository: str, revision: str | None) -> Listing:
        """The files of a repository.

        Args:
            revision: A branch, tag or commit; `None` for the newest.

        Raises:
            HubUnreachable: It does not answer.
            HubRefused: There is no such repository or revision, or its terms were not accepted.
            DownloadDamaged: The answer is none, or names a file outside of its repository.
        """

    def source(self, listing: Listing, file: RemoteFile) -> Source:
        """Where a file of the listing is."""


def open_hub(settings: Settings, name: HubName) -> Hub:
    """The hub of a name."""
    if name == "huggingface":
        from .huggingface import HuggingFace

        return HuggingFace(settings.huggingface_url)
    from .modelscope import ModelScope

    return ModelScope(settings.modelscope_url)


def checked_path(path: object) -> str:
    """A path of a listing that stays inside of any folder.

    Raises:
        DownloadDamaged: It is none. Whoever lists such a file means no good, so that nothing of the
            repository is fetched.
    """
    if isinstance(path, str):
        parts = path.split("/")
        plain = path.isprintable() and not set(path) & set('\\:*?"<>|') and len(path) <= 1024
        if plain and all(part not in ("", ".", "..") and not part.startswith("~") for part in parts):
            if PurePosixPath(path).name != RECORD:
                return path
    raise DownloadDamaged(
        f"the hub lists a file called {path!r}, which is no path inside of a repository; do not use this one"
    )


def checked_commit(commit: object) -> str | None:
    """The name of a commit, if it looks like one; it is printed, written down and asked for again."""
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def checked_size(size: object) -> int | None:
    """A number of bytes, if it is one."""
    return size if isinstance(size, int) and size >= 0 else None


def plain(words: object) -> str:
    """Somebody else's words on one line, without characters that a terminal would obey, and not too many."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(words))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def unique(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files, of which no two may have one path.

    Raises:
        DownloadDamaged: Two have, or differ in nothing but upper and lower case, which some disks ignore.
    """
    found: dict[str, RemoteFile] = {}
    for file in files:
        if found.setdefault(file.path.casefold(), file) is not file:
            raise DownloadDamaged(f"the hub lists {file.path} twice; do not use this repository")
    return tuple(found.values())
