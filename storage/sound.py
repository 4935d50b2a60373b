"""What a sound file holds, found out by decoding it to its end.

Decoders are where a file of a stranger's does its harm: they crash, and a few bytes unpack to hours. So
nobody calls `examine` in a process that matters: `examiner.py` does it in one with limits, and only there
are numpy and libsndfile loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .containers import missing_bytes, mp3_states_length

MAX_CHANNELS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
MOST_SAMPLES_PER_S = 192_000
"""All channels together may have so many for each second of the longest audio: stereo at 96 kHz."""

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


class UnusableSound(Exception):
    """A file cannot be used as audio. The message is the end of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """What decoding a file told.

    Attributes:
        frames: Samples of each channel.
    """

    frames: int
    sample_rate: int
    channels: int
    media_type: str

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate


def examine(path: Path, max_audio_s: float) -> Sound:
    """Decode a whole file in small blocks, and keep none of it.

    Args:
        path: The file.
        max_audio_s: The longest audio that is taken, in decoded seconds.

    Raises:
        UnusableSound: It is no audio, damaged, truncated, too long, or of absurd proportions.
    """
    import soundfile

    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError, OSError) as error:  # TypeError: a name that ends in `.raw`
        raise UnusableSound(
            "is not audio that can be read, or its header is damaged; give WAV, FLAC, MP3, Ogg or AIFF"
        ) from error
    with file:
        _check_header(file, max_audio_s)
        frames = _count(file, max_audio_s)
        _check_end(file, path, frames)
        return Sound(
            frames=frames,
            sample_rate=file.samplerate,
            channels=file.channels,
            media_type=MEDIA_TYPES[file.format],
        )


def _check_header(file: Any, max_audio_s: float) -> None:
    """Refuse what can be refused before decoding."""
    if file.format not in MEDIA_TYPES:
        raise UnusableSound(f"is in the format {file.format}; convert it to WAV, FLAC, MP3, Ogg or AIFF")
    if not 1 <= file.channels <= MAX_CHANNELS:
        raise UnusableSound(
            f"has {file.channels} channels, and at most {MAX_CHANNELS} are taken; mix it down"
        )
    if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
        raise UnusableSound(
            f"has a sample rate of {file.samplerate} Hz, and {MIN_RATE_HZ} to {MAX_RATE_HZ} are taken; "
            "resample it"
        )
    if file.frames >= UNKNOWN_FRAMES:
        raise UnusableSound(
            "does not say how long it is (was it written to a pipe?); encode it again to a file"
        )
    _check_length(file, file.frames, max_audio_s)


def _check_length(file: Any, frames: int, max_audio_s: float) -> None:
    if frames > max_audio_s * file.samplerate:
        raise UnusableSound(f"is longer than {max_audio_s:g} s (max_audio_s); split it")
    if frames * file.channels > max_audio_s * MOST_SAMPLES_PER_S:
        raise UnusableSound(
            f"has more than {max_audio_s * MOST_SAMPLES_PER_S:.0f} samples in all its channels; "
            "resample it, or mix it down"
        )


def _count(file: Any, max_audio_s: float) -> int:
    """Decode to the end: a few bytes may claim, or unpack to, hours of audio."""
    import numpy as np
    import soundfile

    frames = 0
    block = np.empty((BLOCK_FRAMES, file.channels), dtype=np.float32)
    while True:
        try:
            part = file.read(out=block)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise UnusableSound(
                f"is damaged or truncated: decoding fails after {frames / file.samplerate:.2f} s; "
                "send or export it again"
            ) from error
        if not len(part):
            return frames
        frames += len(part)
        if not np.isfinite(part).all():
            raise UnusableSound("has samples that are not numbers (NaN or infinite); export it again")
        _check_length(file, frames, max_audio_s)


def _check_end(file: Any, path: Path, frames: int) -> None:
    """Compare what was decoded with what the file says it holds."""
    if missing := missing_bytes(path):
        raise UnusableSound(
            f"is truncated: at least {missing} bytes are missing at its end; send or export it again"
        )
    stated, slack = file.frames, 0
    if file.format == "MP3":
        stated, slack = (stated if mp3_states_length(path) else 0), MP3_SLACK_FRAMES
    if frames + slack < stated:
        raise UnusableSound(
            f"is truncated: {frames / file.samplerate:.2f} s of {stated / file.samplerate:.2f} s can be "
            "decoded; send or export it again"
        )
    if not frames:
        raise UnusableSound("holds no samples; record or export it again")
