"""ModelScope: one request lists the files of a repository, another gives the content of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from soundmill.storage.repository import HubName

from ..errors import DownloadDamaged, HubRefused, HubUnreachable, PullFailed
from .hub import (
    SLOW_S,
    Listing,
    RemoteFile,
    Source,
    checked_commit,
    checked_path,
    checked_size,
    plain,
    unique,
)

NEWEST = "master"

MOST_FILES = 3000
"""A listing of so many files may be cut off, without a word."""


class ModelScope:
    """The hub `modelscope`."""

    name: HubName = "modelscope"

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def page(self, repository: str) -> str:
        """See `Hub.page`."""
        return f"{self._url}/models/{repository}"

    def list_files(self, repository: str, revision: str | None) -> Listing:
        """See `Hub.list_files`."""
        asked = revision or NEWEST
        entries = [entry for entry in self._entries(repository, asked) if entry.get("Type") != "tree"]
        return Listing(
            hub=self.name,
            name=repository,
            revision=asked,
            commit=_newest(entries),
            files=unique(map(_file, entries)),
        )

    def source(self, listing: Listing, file: RemoteFile) -> Source:
        """See `Hub.source`."""
        return Source(url=self._address(listing.name, "", Revision=listing.revision, FilePath=file.path))

    def _address(self, repository: str, what: str, **query: str) -> str:
        return f"{self._url}/api/v1/models/{quote(repository)}/repo{what}?{urlencode(query)}"

    def _entries(self, repository: str, revision: str) -> list[Mapping[str, Any]]:
        answer = self._ask(repository, revision)
        try:
            if answer.get("Success") is False or int(answer.get("Code", 200)) != 200:
                raise HubRefused(f"{self.page(repository)}: {plain(answer.get('Message') or 'refused')}")
            entries = answer["Data"]["Files"]
            if not all(isinstance(entry, Mapping) for entry in entries):
                raise TypeError
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DownloadDamaged(f"{self._url} answered with no list of files") from error
        if len(entries) >= MOST_FILES:
            raise HubRefused(f"{self.page(repository)} has too many files to be listed; fetch it by hand")
        return list(entries)

    def _ask(self, repository: str, revision: str) -> Any:
        session = new_session()
        address = self._address(repository, "/files", Revision=revision, Recursive="True")
        try:
            with session, session.get(address, timeout=SLOW_S) as answer:
                if answer.status_code in (400, 404):
                    raise HubRefused(
                        f"{self.page(repository)} has no revision {revision!r}, or does not exist; "
                        "leave out --revision for the newest"
                    )
                if answer.status_code >= 500:
                    raise HubUnreachable(f"{self._url} cannot be reached (status {answer.status_code})")
                if answer.status_code != 200:
                    raise HubRefused(
                        f"{self.page(repository)} was refused with status {answer.status_code}; it may not be "
                        "open to everybody"
                    )
                return answer.json()
        except ValueError as error:
            raise DownloadDamaged(f"{self._url} answered with no list of files") from error
        except OSError as error:  # all that the library raises
            raise HubUnreachable(
                f"{self._url} cannot be reached ({type(error).__name__}: {error})"
            ) from error


def new_session() -> Any:
    """A session of `requests`.

    Raises:
        PullFailed: The library is missing.
    """
    try:
        import requests
    except ImportError as error:
        raise PullFailed("requests is missing; pip install 'soundmill[models]'") from error
    session = requests.Session()
    session.headers["User-Agent"] = "soundmill"
    return session


def _file(entry: Mapping[str, Any]) -> RemoteFile:
    digest = entry.get("Sha256")
    return RemoteFile(
        path=checked_path(entry.get("Path")),
        bytes=checked_size(entry.get("Size")),
        sha256=str(digest).lower() if digest else None,
    )


def _newest(entries: list[Mapping[str, Any]]) -> str | None:
    """The commit that changed a file last: the hub lists one for each file, and none for the whole."""

    def dated() -> Iterator[tuple[int, str]]:
        for entry in entries:
            commit = checked_commit(entry.get("Revision"))
            if commit is not None and isinstance(entry.get("CommittedDate"), int):
                yield entry["CommittedDate"], commit

    return max(dated(), default=(0, None))[1]
