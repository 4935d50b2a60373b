"""Hugging Face, and mirrors that speak as it does, through its own library."""

from __future__ import annotations

from typing import Any

from soundmill.storage.repository import HubName

from ..errors import HubRefused, HubUnreachable, PullFailed
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

NEWEST = "main"


class HuggingFace:
    """The hub `huggingface`."""

    name: HubName = "huggingface"

    def __init__(self, url: str | None) -> None:
        """Address a mirror, or with `None` what the library would.

        Raises:
            PullFailed: The library is missing.
        """
        try:
            # Named one by one: the package imports its modules when they are first asked for, and not all of them.
            import huggingface_hub.constants
            import huggingface_hub.errors
            import huggingface_hub.utils
        except ImportError as error:
            raise PullFailed("huggingface_hub is missing; pip install 'soundmill[models]'") from error
        self._library: Any = huggingface_hub
        self._url = (url or huggingface_hub.constants.ENDPOINT).rstrip("/")

    def page(self, repository: str) -> str:
        """See `Hub.page`."""
        return f"{self._url}/{repository}"

    def list_files(self, repository: str, revision: str | None) -> Listing:
        """See `Hub.list_files`."""
        asked = revision or NEWEST
        try:
            found = self._library.HfApi(endpoint=self._url, library_name="soundmill").model_info(
                repository, revision=asked, files_metadata=True, timeout=SLOW_S
            )
        except Exception as error:
            raise self._translated(error, repository, asked) from error
        files = unique(_file(entry) for entry in found.siblings or ())
        commit = checked_commit(found.sha)
        return Listing(hub=self.name, name=repository, revision=asked, commit=commit, files=files)

    def source(self, listing: Listing, file: RemoteFile) -> Source:
        """See `Hub.source`."""
        url = self._library.hf_hub_url(
            listing.name, file.path, revision=listing.commit or listing.revision, endpoint=self._url
        )
        return Source(url=url, headers=self._library.utils.build_hf_headers(library_name="soundmill"))

    def _translated(self, error: Exception, repository: str, revision: str) -> PullFailed:
        errors, page = self._library.errors, self.page(repository)
        if isinstance(error, errors.GatedRepoError):
            return HubRefused(
                f"{page} is given to those only who accepted its terms: accept them there, then log in with "
                "`hf auth login`, or set HF_TOKEN to a token of that account"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return HubRefused(f"{page} has no revision {revision!r}; leave out --revision for the newest")
        if isinstance(error, errors.RepositoryNotFoundError):
            return HubRefused(f"there is no {page}, or it is not open to everybody")
        if isinstance(error, errors.OfflineModeIsEnabled):
            return HubUnreachable(f"HF_HUB_OFFLINE is set, so that {self._url} is not asked")
        if isinstance(error, errors.HFValidationError):
            return HubRefused(f"{repository!r} is no OWNER/NAME of a repository")
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and status < 500:
            return HubRefused(f"{page} was refused with status {status}")
        why = f"status {status}" if status is not None else f"{type(error).__name__}: {plain(error)}"
        return HubUnreachable(f"{self._url} cannot be reached ({why})")


def _file(entry: Any) -> RemoteFile:
    lfs = entry.lfs
    digest = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return RemoteFile(
        path=checked_path(entry.rfilename),
        bytes=checked_size(entry.size),
        sha256=digest.lower() if digest else None,
        # What is not in LFS lies in git itself, under this number.
        git_sha1=None if digest else entry.blob_id,
    )
