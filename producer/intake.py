"""Where the audio of requests comes in: paths from a folder, bytes from anywhere, addresses if that is allowed."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from soundmill.storage.audio_fields import input_name
from soundmill.storage.blobs import BlobStore, LocalBlobStore
from soundmill.storage.errors import NotFound
from soundmill.storage.inputs import InputAudio, InputStore
from soundmill.storage.submission import StoredInput

if TYPE_CHECKING:
    from soundmill.storage.examiner import Examiner
    from soundmill.storage.settings import Settings

    from .fetching import Fetcher

REMEMBERED = 1024
# Far below the age at which the collector takes a blob that no job has.
REMEMBERED_S = 3600.0

_Identity = tuple[str, int, int, int] | str
"""What audio is known by: a file's path and what changes with its content, or an address."""


class Intake:
    """Stores the audio of requests. Safe between threads.

    A file that many requests name, such as the voice to clone, is read and decoded once.
    """

    def __init__(
        self,
        settings: Settings,
        blobs: BlobStore,
        *,
        base: Path | None = None,
        roots: Sequence[Path] = (),
        examiner: Examiner | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        """Take audio in.

        Args:
            settings: For the limits and the allowed folders.
            blobs: Where it is stored.
            base: The folder that relative paths are meant from; `None` is the current one.
            roots: Folders, or single files, that are allowed beside `settings.input_roots`.
            examiner: Decodes it; `None` makes one.
            fetcher: Fetches it from addresses; `None` makes one of the settings.
        """
        self._settings = settings
        self._blobs = blobs
        self._base = base
        self._roots = (*roots, *settings.input_roots)
        self._examiner = examiner
        self._fetcher = fetcher
        self._lock = threading.Lock()
        self._inputs: InputStore | None = None
        self._known: OrderedDict[_Identity, tuple[float, InputAudio]] = OrderedDict()

    def store_file(self, field: str, path: Path) -> StoredInput:
        """Check and store the audio of a file.

        Raises:
            InputRefused: It is no readable audio inside the allowed folders.
            StorageUnavailable: It could not be stored.
        """
        full = path if self._base is None else self._base / path
        identity = _identity(full)
        audio = self._remembered(identity)
        if audio is None:
            audio = self._store().from_path(full, field=field)
            if identity is not None and identity == _identity(full):
                self._remember(identity, audio)
        return self._taken(field, audio)

    def store_bytes(self, field: str, content: bytes) -> StoredInput:
        """Check and store audio that came as bytes.

        Raises:
            InputRefused: It is no audio.
            StorageUnavailable: It could not be stored.
        """
        return self._taken(field, self._store().from_bytes(content, field=field))

    def store_url(self, field: str, url: str) -> StoredInput:
        """Fetch, check and store the audio behind an address; for an hour it is not fetched again.

        Raises:
            InputRefused: It may not be fetched, could not be, or is no audio.
            StorageUnavailable: It could not be stored.
        """
        audio = self._remembered(url)
        if audio is None:
            # Lets the other side's certificates be checked, which other requests do without.
            from .fetching import Fetcher

            fetcher = self._fetcher or Fetcher(self._settings)
            parts = fetcher.fetch(url, field=field)
            audio = self._store().from_parts(parts, name=f"the audio for {field}", field=field)
            self._remember(url, audio)
        return self._taken(field, audio)

    def _taken(self, field: str, audio: InputAudio) -> StoredInput:
        return _input(field, audio)

    def _store(self) -> InputStore:
        with self._lock:
            if self._inputs is None:
                self._inputs = InputStore(
                    self._blobs,
                    self._roots,
                    self._settings.max_audio_s,
                    self._settings.max_input_bytes,
                    examiner=self._examiner,
                )
            return self._inputs

    def _remembered(self, identity: _Identity | None) -> InputAudio | None:
        with self._lock:
            if identity is None or identity not in self._known:
                return None
            stored_at, audio = self._known[identity]
            return audio if time.monotonic() - stored_at < REMEMBERED_S else None

    def _remember(self, identity: _Identity, audio: InputAudio) -> None:
        with self._lock:
            self._known[identity] = (time.monotonic(), audio)
            self._known.move_to_end(identity)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


class TrialIntake(Intake):
    """Checks audio as `Intake` does, and keeps none of it.

    Attributes:
        heard_s: Seconds of audio that were taken in; a file counts each time it is named.
    """

    heard_s = 0.0

    @classmethod
    @contextmanager
    def open(
        cls, settings: Settings, *, base: Path | None = None, roots: Sequence[Path] = ()
    ) -> Iterator[Self]:
        """One that lasts as long as the context; the arguments are those of `Intake`."""
        with tempfile.TemporaryDirectory(prefix="soundmill-trial-") as folder:
            yield cls(settings, LocalBlobStore(Path(folder)), base=base, roots=roots)

    def store_file(self, field: str, path: Path) -> StoredInput:
        return self._dropped(super().store_file(field, path))

    def store_bytes(self, field: str, content: bytes) -> StoredInput:
        return self._dropped(super().store_bytes(field, content))

    def store_url(self, field: str, url: str) -> StoredInput:
        return self._dropped(super().store_url(field, url))

    def _taken(self, field: str, audio: InputAudio) -> StoredInput:
        with self._lock:
            self.heard_s += audio.duration_s
        return super()._taken(field, audio)

    def _dropped(self, stored: StoredInput) -> StoredInput:
        with suppress(NotFound):  # a file that was seen before is remembered, not stored again
            self._blobs.delete(stored.sha256)
        return stored


def _identity(path: Path) -> tuple[str, int, int, int] | None:
    """What changes when the content of a file does; `None` where there is no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return str(path), found.st_ino, found.st_mtime_ns, found.st_size


def _input(field: str, audio: InputAudio) -> StoredInput:
    return StoredInput(
        name=input_name(field), sha256=audio.sha256, size=audio.size, media_type=audio.media_type
    )
