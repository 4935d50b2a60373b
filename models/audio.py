"""Audio in and out: reading what people send, writing what models make.

Samples are float32 in [-1, 1]; a file of C channels is read as [S, C] and mixed to [S] by `to_mono`.
Nothing is ever held for a whole file unless the caller asks: `read` takes a limit, `blocks` streams.

All four formats that we write give back exactly the number of samples that went in, at the same place:
WAV and FLAC by nature, MP3 by the encoder delay and padding in its LAME header, Opus by the pre-skip and
the last granule position (RFC 7845). What comes back of MP3 and Opus is lossy in value, not in length.
Of an MP3 of variable rate *without* such a header, which hardly any encoder writes, libsndfile guesses the
length from the first frame, and reads no further.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from .errors import InputError, ModelError

Samples = npt.NDArray[np.float32]

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}

_CONTAINERS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
}

BLOCK_S = 1.0
# A second is read at a time: a header of 48 bytes that claims gigahertz would take gigabytes.
_MAX_RATE_HZ, _MAX_CHANNELS = 384_000, 64
# libsndfile keeps what it hands to the MP3 and Opus encoders on the C stack: large writes have crashed it.
_WRITE_BLOCK = 16384
# Programs that write a WAV into a pipe cannot know its length and fill in one of these.
_UNKNOWN_SIZES = frozenset({0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFF000, 0xFFFFF000})


def samples_to_seconds(samples: int, sample_rate: int) -> float:
    """The time that `samples` take at `sample_rate` hertz."""
    return samples / sample_rate


def seconds_to_samples(seconds: float, sample_rate: int) -> int:
    """The sample nearest to `seconds`."""
    return round(seconds * sample_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """What the header of a file says.

    Attributes:
        samples: Per channel. Some formats only estimate it: trust what was read.
    """

    sample_rate: int
    channels: int
    samples: int

    @property
    def duration_s(self) -> float:
        return samples_to_seconds(self.samples, self.sample_rate)


def probe(path: Path) -> AudioInfo:
    """Read the header of an audio file.

    Raises:
        InputError: The file is missing, empty, truncated, holds no samples, or is not audio.
    """
    with _opened(path) as file:
        return _info(file)


def read(
    path: Path,
    *,
    sample_rate: int,
    max_s: float | None = None,
    checkpoint: Callable[[], None] | None = None,
) -> Samples:
    """Read a whole file as one channel.

    Args:
        path: Anything that libsndfile reads: WAV, FLAC, MP3, Ogg Vorbis, Opus, AIFF, …
        sample_rate: What the audio is resampled to.
        max_s: Longer audio is refused.
        checkpoint: Called after each second of audio.

    Returns:
        The samples [S], S = round(file's samples · sample_rate / file's rate).

    Raises:
        InputError: As `blocks`.
    """
    resampled = _resampled(blocks(path, max_s=max_s), probe(path).sample_rate, sample_rate, checkpoint)
    return np.concatenate(list(resampled))


def mono_blocks(path: Path, *, sample_rate: int, max_s: float | None = None) -> Iterator[Samples]:
    """Read a file as one channel, about a second at a time; the blocks join to what `read` returns.

    Raises:
        InputError: As `blocks`.
    """
    with mono_stream(path, sample_rate=sample_rate, max_s=max_s) as (_, parts):
        yield from parts


@contextmanager
def mono_stream(
    path: Path, *, sample_rate: int, max_s: float | None = None
) -> Iterator[tuple[AudioInfo, Iterator[Samples]]]:
    """Open a file once for both: what its header says, and the blocks of `mono_blocks`, until the block ends.

    Raises:
        InputError: As `blocks`.
    """
    with _opened(path) as file:
        info = _info(file)
        parts = _read_blocks(file, info, block_s=BLOCK_S, max_s=max_s)
        yield info, _resampled(parts, info.sample_rate, sample_rate)


def _resampled(
    parts: Iterator[Samples], from_hz: int, to_hz: int, checkpoint: Callable[[], None] | None = None
) -> Iterator[Samples]:
    same = from_hz == to_hz  # then soxr gives back what it is given, and takes its time
    resampler: Any = None if same else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")
    for block in parts:
        yield to_mono(block) if same else resampler.resample_chunk(to_mono(block))
        if checkpoint is not None:
            checkpoint()
    if not same:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def blocks(path: Path, *, block_s: float = BLOCK_S, max_s: float | None = None) -> Iterator[Samples]:
    """Read a file piece by piece, as float32 [S, C] of `block_s` seconds each, the last one shorter.

    Raises:
        InputError: The file is missing, empty, truncated, not audio, longer than `max_s`, or a sample is
            NaN or infinite. A fault in the middle of a file is raised when its block is reached.
    """
    with _opened(path) as file:
        yield from _read_blocks(file, _info(file), block_s=block_s, max_s=max_s)


def _read_blocks(file: Any, info: AudioInfo, *, block_s: float, max_s: float | None) -> Iterator[Samples]:
    _check_length(info.duration_s, max_s)
    size = max(1, seconds_to_samples(block_s, info.sample_rate))
    done = 0
    while len(block := _read_block(file, size)):
        done += len(block)
        _check_length(samples_to_seconds(done, info.sample_rate), max_s)
        yield block
    if done < info.samples:
        raise InputError(_ends_early(done / info.sample_rate, info.duration_s))


def to_mono(samples: Samples) -> Samples:
    """The mean of all channels: [S, C] becomes [S]; [S] stays."""
    if samples.ndim == 1:
        return samples
    if samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, 0])
    mixed: Samples = samples.mean(axis=1, dtype=np.float32)
    return mixed


class _Forward(soundfile.SoundFile):
    """A file that is only read from its begin to its end.

    soundfile seeks to where it already is after every read of a file that can seek. An MP3 decoder
    loses by that what it carries over from frame to frame, and with it a tenth of a second of sound.
    """

    def seekable(self) -> bool:
        return False


class AudioWriter:
    """Writes a file block by block, resampling on the way, so that memory does not grow with its length.

    Attributes:
        samples: Written so far per channel, at the file's own rate; complete after `close`.
    """

    def __init__(self, path: Path, *, format: str, from_hz: int, sample_rate: int, channels: int = 1) -> None:
        """Open `path` for audio that arrives at `from_hz` and is kept at `sample_rate`.

        Args:
            format: One of `MEDIA_TYPES`.
        """
        container, subtype = _CONTAINERS[format]
        self.sample_rate = sample_rate
        self.samples = 0
        self._channels = channels
        self._resampler: Any = None
        if from_hz != sample_rate:
            self._resampler = soxr.ResampleStream(from_hz, sample_rate, channels, dtype="float32")
        self._file: Any = soundfile.SoundFile(
            path, "w", samplerate=sample_rate, channels=channels, format=container, subtype=subtype
        )

    @property
    def duration_s(self) -> float:
        return samples_to_seconds(self.samples, self.sample_rate)

    def write(self, samples: Samples) -> None:
        """Append [S] or [S, C] at the rate `from_hz`. Values outside [-1, 1] are clipped.

        Raises:
            ModelError: A sample is no number: nobody could tell it from sound in the file.
        """
        if not np.isfinite(samples).all():
            raise ModelError(
                "the model made audio that is not finite; let the worker run it with --dtype fp32"
            )
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        self._append(samples)

    def close(self) -> None:
        """Flush the resampler and the encoder. Closing twice is harmless."""
        if self._file.closed:
            return
        try:
            if self._resampler is not None:
                nothing = np.zeros((0, self._channels) if self._channels > 1 else 0, np.float32)
                self._append(self._resampler.resample_chunk(nothing, last=True))
        finally:
            self._file.close()

    def _append(self, samples: Samples) -> None:
        for start in range(0, len(samples), _WRITE_BLOCK):
            self._file.write(np.clip(samples[start : start + _WRITE_BLOCK], -1, 1))
        self.samples += len(samples)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file for reading, with the reasons why one cannot be read in the submitter's words."""
    if not path.is_file():
        raise InputError("the audio file does not exist")
    if path.stat().st_size == 0:
        raise InputError("the audio file is empty (0 bytes)")
    _check_wav_size(path)
    try:
        file = _Forward(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name that ends in `.raw`
        raise InputError(
            "the file is not audio that can be read, or it is damaged; send WAV, FLAC, MP3, Ogg or Opus"
        ) from error
    with file:
        yield file


def _info(file: Any) -> AudioInfo:
    info = AudioInfo(sample_rate=file.samplerate, channels=file.channels, samples=file.frames)
    if info.samples == 0:
        raise InputError("the audio file holds no samples")
    if not 0 < info.sample_rate <= _MAX_RATE_HZ or not 0 < info.channels <= _MAX_CHANNELS:
        raise InputError(
            f"the audio file has {info.channels} channels at {info.sample_rate} Hz; "
            f"send up to {_MAX_CHANNELS} at up to {_MAX_RATE_HZ} Hz"
        )
    return info


def _read_block(file: Any, size: int) -> Samples:
    try:
        block: Samples = file.read(size, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        at_s = samples_to_seconds(file.tell(), file.samplerate)
        raise InputError(f"the audio file is damaged or truncated near {at_s:.1f} s") from error
    if not np.isfinite(block).all():
        raise InputError("the audio contains samples that are not finite (NaN or infinite)")
    return block


def _check_length(duration_s: float, max_s: float | None) -> None:
    if max_s is not None and duration_s > max_s:
        raise InputError(f"the audio is longer than the {max_s:g} s that are allowed here")


def _ends_early(held_s: float, promised_s: float) -> str:
    return f"the audio file is truncated: its header promises {promised_s:.2f} s, but it ends after {held_s:.2f} s"


def _check_wav_size(path: Path) -> None:
    """Refuse a WAV file whose data chunk is longer than the file; libsndfile would quietly shorten it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WAVE":
            return
        bytes_per_s = 0
        while len(header := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"data":
                held = size - file.tell()
                if held < length and length not in _UNKNOWN_SIZES and bytes_per_s:
                    raise InputError(_ends_early(held / bytes_per_s, length / bytes_per_s))
                return
            if name == b"fmt " and length >= 16:
                form = file.read(12)
                if len(form) < 12:
                    return  # it ends here, which libsndfile says
                bytes_per_s = struct.unpack("<8xI", form)[0]
                length -= 12
            file.seek(length + length % 2, os.SEEK_CUR)  # chunks are padded to even lengths
