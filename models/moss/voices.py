"""Voices: reference clips as the codec hears them, each encoded once, and the presets of the operator."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..handler import Run

if TYPE_CHECKING:
    from torch import Tensor

PRESETS = {
    "Junhao": "zh_1", "Zhiming": "zh_2", "Weiguo": "zh_5", "Xiaoyu": "zh_3", "Yuewen": "zh_4", "Lingyu": "zh_6",
    "Trump": "en_1", "Ava": "en_2", "Bella": "en_3", "Adam": "en_4", "Nathan": "en_5",
    "Sakura": "jp_1", "Yui": "jp_2", "Aoi": "jp_3", "Hina": "jp_4", "Mei": "jp_5",
}  # fmt: skip
"""The recordings of the published presets, by their names without the ending."""

_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_MOST_KEPT = 256
_LOOK_EVERY_S = 0.2


class Voices:
    """The codes of clips, by the hash of their bytes. Used from many threads."""

    def __init__(self, encode: Callable[[Path, Run], Tensor], folders: tuple[Path, ...]) -> None:
        """Prepare.

        Args:
            encode: Reads and encodes a clip to codes `[F, K]`.
            folders: Where the recordings of presets may lie.
        """
        self._encode = encode
        self._folders = folders
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Future[Tensor]] = OrderedDict()

    def preset(self, name: str) -> Path:
        """The recording of a preset, or of a voice that is called like its file.

        Raises:
            InputError: It is not on this worker; the message has those that are.
        """
        stem = PRESETS.get(name, name)
        for folder in self._folders:
            for ending in _ENDINGS:
                if (folder / f"{stem}{ending}").is_file():
                    return folder / f"{stem}{ending}"
        there = ", ".join(self.names()) or "none"
        raise InputError(
            f"voice: the recording of {name!r} ({stem}.wav) is not on this worker, which has: {there}; "
            "choose one of them or give a reference"
        )

    def names(self) -> list[str]:
        """The voices whose recordings are here, presets by their names."""
        stems = {
            file.stem
            for folder in self._folders
            if folder.is_dir()
            for file in folder.iterdir()
            if file.suffix in _ENDINGS
        }
        named = [name for name, stem in PRESETS.items() if stem in stems]
        return named + sorted(stems - set(PRESETS.values()))

    def codes(self, path: Path, run: Run) -> tuple[Tensor, bool]:
        """The codes of a clip `[F, K]`, and whether they were known.

        Several that ask for the same new clip at once wait for the first of them.

        Raises:
            InputError: The clip cannot be used.
            Interrupted: From the run.
        """
        key = hashlib.sha256(path.read_bytes()).hexdigest()
        while True:
            found, mine = self._claim(key)
            if mine:
                return self._made(key, found, path, run), False
            codes = _awaited(found, run)
            if codes is not None:
                return codes, True

    def _claim(self, key: str) -> tuple[Future[Tensor], bool]:
        """The future of a clip's codes, and whether it is the caller who has to make them."""
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found, False
            self._known[key] = Future()
            while len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)
            return self._known[key], True

    def _made(self, key: str, future: Future[Tensor], path: Path, run: Run) -> Tensor:
        try:
            codes = self._encode(path, run)
        except BaseException:
            # Whoever waits tries for itself: the reason may be this request's own end.
            with self._lock:
                self._known.pop(key, None)
            future.cancel()
            raise
        future.set_result(codes)
        return codes


def _awaited(future: Future[Tensor], run: Run) -> Tensor | None:
    """Another thread's codes; `None` if it gave up."""
    while not future.done():
        run.checkpoint()
        threading.Event().wait(_LOOK_EVERY_S)
    return None if future.cancelled() else future.result()
