"""What `soundmill doctor` says of the store of artifacts: it does once what a job does with it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from soundmill.storage.blobs import BlobStore, open_blobs
from soundmill.storage.errors import StorageError, StorageUnavailable
from soundmill.storage.settings import Settings, masked

from .finding import Finding

LEAST_FREE_BYTES = 1024**3
SOON_FULL_SHARE = 0.05


def storage_findings(settings: Settings) -> Iterator[Finding]:
    """Put, read and remove a few bytes."""
    try:
        yield _storage(settings)
    except (StorageError, OSError) as error:
        yield Finding(what="storage", verdict="broken", detail=str(error))


def _storage(settings: Settings) -> Finding:
    blobs = open_blobs(settings)
    with blobs.scratch() as folder:
        usage = shutil.disk_usage(folder)
        _probe(blobs, folder / "probe")
    detail = f"{masked(settings.storage_url)} takes and gives bytes, {usage.free / 1024**3:.1f} GiB free for scratch"
    verdict = space_verdict(usage.free, usage.total)
    remedy = "" if verdict == "ok" else "; free some space or move state_dir"
    return Finding(what="storage", verdict=verdict, detail=f"{detail}{remedy}")


def space_verdict(free: int, total: int) -> str:
    """What is to be said of so many free bytes on a disk."""
    if free < LEAST_FREE_BYTES:
        return "broken"
    return "warning" if free < SOON_FULL_SHARE * total and free < 20 * LEAST_FREE_BYTES else "ok"


def _probe(blobs: BlobStore, path: Path) -> None:
    """Do once what a job does with the store, with bytes that nobody else has."""
    content = b"soundmill doctor " + secrets.token_bytes(16)
    path.write_bytes(content)
    blob = blobs.put(path)
    try:
        with blobs.open(blob.sha256) as stream:
            if stream.read() != content:
                raise StorageUnavailable("the store gives other bytes than it was given")
    finally:
        blobs.delete(blob.sha256)
