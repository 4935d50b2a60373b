"""The input audio of a job, from storage to files that a handler can read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from soundmill.storage.audio_fields import audio_in, with_audio
from soundmill.storage.blobs import BlobStore
from soundmill.storage.database import Database
from soundmill.storage.errors import InputRefused, NotFound
from soundmill.storage.examiner import Examiner
from soundmill.storage.listing import artifacts_of
from soundmill.storage.sound import UnusableSound

AUDIO_ROLE = "audio"
REMEMBERED = 4096


class SoundCheck:
    """Decodes stored audio to its end before a handler does, in a process with limits.

    The producer has done so at submit, but whoever can write rows and blobs is not always our producer, and a
    decoder that crashes would take the card's process and all its jobs with it. A blob is looked at once in the
    life of the process: its name is its content. What other jobs made was written by us, and is not looked at.
    Safe between threads.
    """

    def __init__(self, examiner: Examiner) -> None:
        self._examiner = examiner
        self._lock = threading.Lock()
        self._passed: OrderedDict[str, None] = OrderedDict()

    def require(self, field: str, sha256: str, path: Path, checkpoint: Callable[[], None]) -> None:
        """Refuse audio that cannot be decoded within the limits.

        Raises:
            InputRefused: With the field.
            StorageUnavailable: There was no process to do it in.
        """
        with self._lock:
            if sha256 in self._passed:
                self._passed.move_to_end(sha256)
                return
        try:
            self._examiner.examine(path, checkpoint)
        except UnusableSound as problem:
            raise InputRefused(f"{field}: the audio {problem}", field) from problem
        with self._lock:
            self._passed[sha256] = None
            if len(self._passed) > REMEMBERED:
                self._passed.popitem(last=False)


@contextmanager
def local_inputs(
    database: Database,
    blobs: BlobStore,
    request: type[Any],
    args: Mapping[str, Any],
    audio_fields: tuple[str, ...],
    check: Callable[[str, str, Path], None] = lambda field, sha256, path: None,
) -> Iterator[Any]:
    """Build the handler's request, its audio fields being paths that hold while the block runs.

    Args:
        database: Where the outputs of other jobs are listed.
        blobs: Where the bytes are.
        request: The handler's dataclass.
        args: The arguments of the row.
        audio_fields: Those that name input audio, as the catalogue has them.
        check: Looks at each file that a submitter gave: its field, its SHA-256 and where it lies.

    Raises:
        NotFound: The bytes are gone, or the other job made no audio.
    """
    with ExitStack() as stack:
        paths = {}
        for name, source in audio_in(args, audio_fields).items():
            sha256 = _sha256_of(database, source)
            paths[name] = stack.enter_context(blobs.fetch(sha256))
            if "artifact" in source:
                check(name, sha256, paths[name])
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
