"""Input audio at submit: read from where it may be read, decoded once to the end, stored by its hash.

What fails here would fail on the card later, after a wait, and with a worse sentence. The check runs
on a private copy, so what was checked is what is stored. Errors name the file, never its content.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from .blobs import CHUNK_BYTES, Blob, BlobStore
from .containers import missing_bytes, mp3_states_length
from .errors import InputRefused, NotFound
from .scratch import translated

MAX_CHANNELS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
BLOCK_FRAMES = 65_536
# libsndfile's SF_COUNT_MAX is what it says for a length that the header does not know.
UNKNOWN_FRAMES = 2**62
# A frame of MP3 (1152 samples) and the decoder's delay of 529 may be counted in or out.
MP3_SLACK_FRAMES = 1152 + 529

MEDIA_TYPES = {
    "WAV": "audio/wav",
    "WAVEX": "audio/wav",
    "RF64": "audio/wav",
    "FLAC": "audio/flac",
    "MP3": "audio/mpeg",
    "OGG": "audio/ogg",
    "AIFF": "audio/aiff",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAudio:
    """Audio that was checked and stored. `duration_s` is counted in decoded samples."""

    sha256: str
    size: int
    duration_s: float
    sample_rate: int
    channels: int
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sound:
    """What decoding a file told."""

    frames: int
    sample_rate: int
    channels: int
    media_type: str


class InputStore:
    """Takes input audio in. Safe between threads."""

    def __init__(self, blobs: BlobStore, roots: Sequence[Path], max_audio_s: float, max_bytes: int) -> None:
        """Build it from the settings of the same names.

        Args:
            blobs: Where the audio is stored.
            roots: Folders from which files may be read; with none, `from_path` refuses everything.
            max_audio_s: Longest audio accepted.
            max_bytes: Largest file accepted.
        """
        self._blobs = blobs
        self._roots = tuple(Path(os.path.realpath(root)) for root in roots)
        self._max_audio_s = max_audio_s
        self._max_bytes = max_bytes

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

    def _decoded(self, path: Path, name: str, field: str) -> _Sound:
        try:
            file = soundfile.SoundFile(path)
        except soundfile.SoundFileError as error:
            raise InputRefused(
                f"{name} is not audio that can be read, or its header is damaged; give WAV, FLAC, MP3, "
                "Ogg or AIFF",
                field,
            ) from error
        with file:
            frames, problem = 0, self._header_problem(file)
            if problem is None:
                frames, problem = self._count(file)
            if problem is None:
                problem = _shortfall(file, path, frames)
            if problem is not None:
                raise InputRefused(f"{name} {problem}", field)
            return _Sound(
                frames=frames,
                sample_rate=file.samplerate,
                channels=file.channels,
                media_type=MEDIA_TYPES[file.format],
            )

    def _header_problem(self, file: Any) -> str | None:
        """What is wrong already before decoding, as the end of a sentence that begins with the name."""
        if file.format not in MEDIA_TYPES:
            return f"is in the format {file.format}; convert it to WAV, FLAC, MP3, Ogg or AIFF"
        if not 1 <= file.channels <= MAX_CHANNELS:
            return f"has {file.channels} channels, and at most {MAX_CHANNELS} are taken; mix it down"
        if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
            return (
                f"has a sample rate of {file.samplerate} Hz, and {MIN_RATE_HZ} to {MAX_RATE_HZ} are taken; "
                "resample it"
            )
        if file.frames >= UNKNOWN_FRAMES:
            return "does not say how long it is (was it written to a pipe?); encode it again to a file"
        return self._too_long(file.frames, file.samplerate)

    def _too_long(self, frames: int, rate: int) -> str | None:
        if frames <= self._max_audio_s * rate:
            return None
        return f"is longer than {self._max_audio_s:g} s (max_audio_s); split it"

    def _count(self, file: Any) -> tuple[int, str | None]:
        """Decode to the end in small blocks: a few bytes may claim, or unpack to, hours of audio."""
        frames = 0
        block = np.empty((BLOCK_FRAMES, file.channels), dtype=np.float32)
        while True:
            try:
                part = file.read(out=block)
            except (soundfile.SoundFileError, RuntimeError):
                return frames, (
                    f"is damaged or truncated: decoding fails after {frames / file.samplerate:.2f} s; "
                    "send or export it again"
                )
            if not len(part):
                return frames, None
            frames += len(part)
            if not np.isfinite(part).all():
                return frames, "has samples that are not numbers (NaN or infinite); export it again"
            if problem := self._too_long(frames, file.samplerate):
                return frames, problem


def _shortfall(file: Any, path: Path, frames: int) -> str | None:
    """Compare what was decoded with what the file says it holds."""
    missing = missing_bytes(path)
    if missing:
        return f"is truncated: at least {missing} bytes are missing at its end; send or export it again"
    stated, slack = file.frames, 0
    if file.format == "MP3":
        stated, slack = (stated if mp3_states_length(path) else 0), MP3_SLACK_FRAMES
    if frames + slack < stated:
        return (
            f"is truncated: {frames / file.samplerate:.2f} s of {stated / file.samplerate:.2f} s can be "
            "decoded; send or export it again"
        )
    return None if frames else "holds no samples; record or export it again"


def _described(blob: Blob, sound: _Sound) -> InputAudio:
    return InputAudio(
        sha256=blob.sha256,
        size=blob.size,
        duration_s=sound.frames / sound.sample_rate,
        sample_rate=sound.sample_rate,
        channels=sound.channels,
        media_type=sound.media_type,
    )


def _kind_of(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
