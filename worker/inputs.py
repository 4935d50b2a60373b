"""The input audio of a job, from storage to files that a handler can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from soundmill.storage.audio_fields import audio_in, with_audio
from soundmill.storage.blobs import BlobStore
from soundmill.storage.database import Database
from soundmill.storage.errors import NotFound
from soundmill.storage.listing import artifacts_of

AUDIO_ROLE = "audio"


@contextmanager
def local_inputs(
    database: Database,
    blobs: BlobStore,
    request: type[Any],
    args: Mapping[str, Any],
    audio_fields: tuple[str, ...],
) -> Iterator[Any]:
    """Build the handler's request, its audio fields being paths that hold while the block runs.

    Args:
        database: Where the outputs of other jobs are listed.
        blobs: Where the bytes are.
        request: The handler's dataclass.
        args: The arguments of the row.
        audio_fields: Those that name input audio, as the catalogue has them.

    Raises:
        NotFound: The bytes are gone, or the other job made no audio.
    """
    with ExitStack() as stack:
        paths = {
            name: stack.enter_context(blobs.fetch(_sha256_of(database, source)))
            for name, source in audio_in(args, audio_fields).items()
        }
        yield request(**with_audio(args, paths))


def _sha256_of(database: Database, source: Mapping[str, str]) -> str:
    if "artifact" in source:
        return source["artifact"]
    with database.read() as connection:
        artifacts = artifacts_of(connection, source["job"])
    found = [artifact.sha256 for artifact in artifacts if artifact.role == AUDIO_ROLE]
    if not found:
        raise NotFound(f"job {source['job']} made no audio to read")
    return found[0]
