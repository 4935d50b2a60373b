"""The codes of recordings: heard once, remembered by what is in the file."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MOST_FRAMES = 100_000
"""Of all recordings that are remembered: more than two hours, in a few megabytes."""

_LOOK_EVERY_S = 0.2


class Voices:
    """A bounded memory of codes, by the hash of the file, the least recently used going first.

    Of several requests with the same new recording one hears it, and the others wait. Safe between
    threads.
    """

    def __init__(self, most_frames: int = MOST_FRAMES) -> None:
        self._most_frames = most_frames
        self._lock = threading.Lock()
        self._codes: OrderedDict[str, Tensor] = OrderedDict()
        self._frames = 0
        self._hearing: dict[str, threading.Event] = {}

    def codes(
        self, path: Path, hear: Callable[[Path], Tensor], checkpoint: Callable[[], None]
    ) -> tuple[Tensor, bool]:
        """The codes of a recording, int16 `[F, K]`, and whether they were known.

        Args:
            path: The file, in any format.
            hear: Makes the codes of one that is not known; what it raises is raised here.
            checkpoint: Called while another thread hears the same recording.

        Raises:
            InputError: There is no such file.
        """
        digest = _digest(path)
        while (known := self._claim(digest)) is not None:
            if not isinstance(known, threading.Event):
                return known, True
            known.wait(_LOOK_EVERY_S)
            checkpoint()
        try:
            codes = hear(path)
            self._remember(digest, codes)
        finally:
            with self._lock:
                self._hearing.pop(digest).set()
        return codes, False

    def _claim(self, digest: str) -> Tensor | threading.Event | None:
        """The codes, or what tells when another thread has them; `None`: it is for the caller to hear."""
        with self._lock:
            if (known := self._codes.get(digest)) is not None:
                self._codes.move_to_end(digest)
                return known
            if (other := self._hearing.get(digest)) is not None:
                return other
            self._hearing[digest] = threading.Event()
            return None

    def _remember(self, digest: str, codes: Tensor) -> None:
        with self._lock:
            self._codes[digest] = codes
            self._frames += len(codes)
            while self._frames > self._most_frames:
                _, forgotten = self._codes.popitem(last=False)
                self._frames -= len(forgotten)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"the audio file does not exist or cannot be read ({error.strerror})") from error
