"""Input audio at submit: read from where it may be read, decoded once to the end, stored by its hash.

What fails here would fail on the card later, after a wait, and with a worse sentence. The check runs
on a private copy, so what was checked is what is stored. Errors name the file, never its content.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .blobs import CHUNK_BYTES, Blob, BlobStore
from .errors import InputRefused, NotFound
from .examiner import Examiner
from .scratch import translated
from .sound import Sound, UnusableSound


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAudio:
    """Audio that was checked and stored. `duration_s` is counted in decoded samples."""

    sha256: str
    size: int
    duration_s: float
    sample_rate: int
    channels: int
    media_type: str


class InputStore:
    """Takes input audio in. Safe between threads."""

    def __init__(
        self,
        blobs: BlobStore,
        roots: Sequence[Path],
        max_audio_s: float,
        max_bytes: int,
        *,
        examiner: Examiner | None = None,
    ) -> None:
        """Build it from the settings of the same names.

        Args:
            blobs: Where the audio is stored.
            roots: Folders from which files may be read; with none, `from_path` refuses everything.
            max_audio_s: Longest audio accepted.
            max_bytes: Largest file accepted.
            examiner: Decodes it, within the same limit; `None` makes one.
        """
        self._blobs = blobs
        self._roots = tuple(Path(os.path.realpath(root)) for root in roots)
        self._max_bytes = max_bytes
        self._examiner = examiner or Examiner(max_audio_s)

    def from_path(self, path: str | Path, *, field: str = "audio") -> InputAudio:
        """Store a copy of a file inside the allowed roots.

        Args:
            path: Of the submitter's choice, relative to the current folder or absolute.
            field: The argument that names it, for the error.

        Raises:
            InputRefused: It cannot be read or used; the sentence says why and what to do.
        """
        with self._open(path, field) as source, self._blobs.scratch() as folder:
            self._copy(source, folder / "input", str(path), field)
            return self._store(folder / "input", str(path), field)

    def from_bytes(self, content: bytes, *, field: str = "audio") -> InputAudio:
        """Store audio that came as bytes.

        Raises:
            InputRefused: It cannot be used; the sentence says why and what to do.
        """
        name = "the audio given"
        self._check_size(len(content), name, field)
        with self._blobs.scratch() as folder:
            with translated("written"):
                (folder / "input").write_bytes(content)
            return self._store(folder / "input", name, field)

    def from_parts(self, parts: Iterable[bytes], *, name: str, field: str = "audio") -> InputAudio:
        """Store audio that comes piece by piece.

        Args:
            parts: Its bytes; what the iteration raises is raised, and nothing is kept.
            name: What errors call it.
            field: The argument that names it, for the error.

        Raises:
            InputRefused: It cannot be used; the sentence says why and what to do.
        """
        with self._blobs.scratch() as folder:
            copied = 0
            with translated("written"), (folder / "input").open("wb") as file:
                for part in parts:
                    copied += len(part)
                    self._check_size(copied, name, field)
                    file.write(part)
            self._check_size(copied, name, field)
            return self._store(folder / "input", name, field)

    def from_blob(self, sha256: str, *, field: str = "audio") -> InputAudio:
        """Take audio that is stored already, and keep the collector away from it.

        Raises:
            InputRefused: It is not stored, or cannot be used.
        """
        name = f"artifact {sha256[:64]}"
        try:
            with self._blobs.fetch(sha256) as path:
                sound = self._decoded(path, name, field)
                # Putting a blob onto itself makes it young: it was perhaps about to be collected.
                return _described(self._blobs.put(path, move=False), sound)
        except NotFound as error:
            raise InputRefused(f"{name} is not stored here; submit the audio itself", field) from error

    def _open(self, path: str | Path, field: str) -> BinaryIO:
        try:
            real = Path(os.path.realpath(path))
            self._check_roots(real, path, field)
            # Not blocking: a pipe without a writer would hang here. No following: the last link was
            # resolved above, and one that appears now is somebody's trick.
            descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "that is no file name"
            raise InputRefused(f"{path!s} cannot be read: {reason}", field) from error
        try:
            # A folder above it may have been exchanged after the check: ask what was really opened.
            with contextlib.suppress(FileNotFoundError):
                self._check_roots(Path(f"/proc/self/fd/{descriptor}").readlink(), path, field)
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise InputRefused(f"{path!s} is {_kind_of(found.st_mode)}; give an audio file", field)
            self._check_size(found.st_size, str(path), field)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def _check_roots(self, real: Path, path: str | Path, field: str) -> None:
        if not any(real.is_relative_to(root) for root in self._roots):
            raise InputRefused(
                f"{path!s} is outside the folders from which audio may be read "
                f"({', '.join(map(str, self._roots)) or 'none'}); move it there or add its folder to input_roots",
                field,
            )

    def _check_size(self, size: int, name: str, field: str) -> None:
        if size == 0:
            raise InputRefused(f"{name} is empty (0 bytes); record or export it again", field)
        if size > self._max_bytes:
            raise InputRefused(
                f"{name} has more than {self._max_bytes} bytes (max_input_bytes); "
                "split it, or convert it to FLAC or MP3",
                field,
            )

    def _copy(self, source: BinaryIO, target: Path, name: str, field: str) -> None:
        copied = 0
        with translated("written"), target.open("wb") as file:
            while chunk := source.read(CHUNK_BYTES):
                copied += len(chunk)
                self._check_size(copied, name, field)  # it may grow while we read
                file.write(chunk)

    def _store(self, path: Path, name: str, field: str) -> InputAudio:
        sound = self._decoded(path, name, field)
        return _described(self._blobs.put(path), sound)

    def _decoded(self, path: Path, name: str, field: str) -> Sound:
        try:
            return self._examiner.examine(path)
        except UnusableSound as problem:
            raise InputRefused(f"{name} {problem}", field) from problem


def _described(blob: Blob, sound: Sound) -> InputAudio:
    return InputAudio(
        sha256=blob.sha256,
        size=blob.size,
        duration_s=sound.duration_s,
        sample_rate=sound.sample_rate,
        channels=sound.channels,
        media_type=sound.media_type,
    )


def _kind_of(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
