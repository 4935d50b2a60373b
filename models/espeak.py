"""eSpeak NG: text in, samples and the places of its words out.

The library keeps all its state in C globals, goes on from what it said before (the phase of its pitch
flutter is never reset), forgets memory, and aborts on some texts. So it lives in processes of its own, one
for each text that is spoken at the same time: see `espeak_speaker.py`. Long texts are spoken in pieces,
between which a process is free for others: a short job never waits for a book.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import espeak_speaker
from .errors import InputError, ModelError, ModelUnavailable
from .words import Mark, MarkKind, Piece, cut_pieces, speakable

SAMPLE_RATE_HZ = espeak_speaker.SAMPLE_RATE_HZ
WORDS_PER_MINUTE = 175  # eSpeak's own normal rate
PIECE_CHARS = 1000  # about a minute of speech, a tenth of a second of work
REMEDY = "eSpeak NG is not installed: run `pip install 'soundmill[speech]'`"

_POLL_S = 0.2
_START_LIMIT_S = 30.0
_SILENCE_LIMIT_S = 30.0  # a piece takes a tenth of a second; what says nothing for so long never will
_MAX_DATA_PATH = 150  # eSpeak's buffer holds 160 characters, and it says nothing when a path is longer
_BY_FILE_NAME = 1000  # behind every priority that a voice states itself
_MARK_KINDS: dict[bytes, MarkKind] = {
    espeak_speaker.WORD: "word",
    espeak_speaker.SOUND: "sound",
    espeak_speaker.PAUSE: "pause",
}

Checkpoint = Callable[[float | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How to speak.

    Attributes:
        language: A code of `Espeak.languages`.
        variant: A name of `Espeak.variants`, or `None` for the language's own voice.
        speed: A factor on `WORDS_PER_MINUTE`; eSpeak takes 80 to 450 words a minute.
        pitch: eSpeak's scale, 0 to 99; 50 is the voice's own.
    """

    language: str
    variant: str | None = None
    speed: float = 1.0
    pitch: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language code, the name of its voice, and the identifier by which the library loads it."""

    code: str
    name: str
    identifier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """The sound of one piece of a text.

    Attributes:
        samples: int16 [S] at `SAMPLE_RATE_HZ`.
        marks: In order of time; samples count from this piece's first, characters from the text's first.
    """

    samples: npt.NDArray[np.int16]
    marks: tuple[Mark, ...]


class Espeak:
    """eSpeak NG for several threads.

    Attributes:
        languages: What it can speak, by code.
        variants: The names of the voice variants.
    """

    def __init__(self, speakers: int = 1) -> None:
        """Start a first process, and ask it for its voices.

        Args:
            speakers: How many processes may speak at the same time; further ones start when needed.

        Raises:
            ModelUnavailable: The library is not installed, or does not start.
        """
        self._held = ExitStack()
        self._command = [*_find(self._held)]
        self._free = threading.BoundedSemaphore(speakers)
        self._idle: list[_Speaker] = []
        self._closed = False
        speaker = _Speaker(self._command)
        self._idle.append(speaker)
        self.languages = _languages(speaker.voices["voices"])
        self.variants = frozenset(speaker.voices["variants"])

    def close(self) -> None:
        """End the processes that are idle now, and each other one after its piece."""
        self._closed = True
        while self._idle:
            self._idle.pop().end()
        self._held.close()

    def speak(self, text: str, manner: Manner, checkpoint: Checkpoint) -> Iterator[Spoken]:
        """Speak a text, piece by piece.

        Args:
            text: Plain text; markup in it is read out.
            checkpoint: Called at least every half second, with the share of the text that is done.
                What it raises ends the speech and passes through.

        Raises:
            InputError: The language or the variant is unknown, or eSpeak breaks down on the text.
            ModelError: The process ended for a reason of its own.
        """
        voice = self._voice_name(manner)
        for piece in cut_pieces(speakable(text), PIECE_CHARS):
            checkpoint(piece.char_start / len(text))
            with self._speaker(checkpoint) as speaker:
                spoken = speaker.speak(_order(piece, voice, manner), piece, checkpoint)
            yield spoken

    def _voice_name(self, manner: Manner) -> str:
        # Names are checked against the library's own lists: it would open any path it is given.
        language = self.languages.get(manner.language)
        if language is None:
            raise InputError(f"eSpeak NG does not speak the language {manner.language!r}")
        if manner.variant is None:
            return language.identifier
        if manner.variant not in self.variants:
            raise InputError(f"eSpeak NG has no voice variant {manner.variant!r}")
        return f"{language.identifier}+{manner.variant}"

    @contextmanager
    def _speaker(self, checkpoint: Checkpoint) -> Iterator[_Speaker]:
        """Borrow a process; one that was left in the middle of a piece is ended."""
        while not self._free.acquire(timeout=_POLL_S):
            checkpoint(None)
        speaker: _Speaker | None = None
        try:
            if self._closed:
                raise ModelUnavailable("eSpeak NG was closed")
            try:
                speaker = self._idle.pop()
            except IndexError:
                speaker = _Speaker(self._command)
            yield speaker
        finally:
            if speaker is not None and speaker.ready and not self._closed:
                self._idle.append(speaker)
            elif speaker is not None:
                speaker.end()
            self._free.release()


class _Speaker:
    """One process that speaks.

    Attributes:
        voices: What it said of its voices.
        ready: False while a piece is on its way, and once the process is of no more use.
    """

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            # Isolated and without site-packages: it starts in a fiftieth of a second.
            [sys.executable, "-I", "-S", espeak_speaker.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # eSpeak complains there of missing dictionaries
            start_new_session=True,  # Ctrl-C is for the worker to answer; and it is ended with its forks
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self.ready = False
        try:
            kind, payload = self._receive(_START_LIMIT_S, lambda _progress: None)
        except ModelError as error:
            self.end()
            raise ModelUnavailable(f"eSpeak NG does not start ({error})") from error
        if kind != espeak_speaker.VOICES:
            self.end()
            raise ModelUnavailable(f"{REMEDY} ({payload.decode(errors='replace')})")
        self.voices: dict[str, Any] = json.loads(payload)
        self.ready = True

    def speak(self, order: bytes, piece: Piece, checkpoint: Checkpoint) -> Spoken:
        self.ready = False
        try:
            self._stdin.write(order)
            self._stdin.flush()
        except OSError as error:
            raise ModelError("eSpeak NG's process has ended") from error
        sound = bytearray()
        marks: list[Mark] = []
        while True:
            kind, payload = self._receive(_SILENCE_LIMIT_S, checkpoint)
            if kind == espeak_speaker.END:
                break
            if kind == espeak_speaker.SAMPLES:
                sound += payload
            else:
                marks += _marks(payload, piece.char_start)
            checkpoint(None)
        self.ready = True
        if json.loads(payload)["exit"] != 0:
            end = piece.char_start + len(piece.text)
            raise InputError(
                f"eSpeak NG breaks down on the text between characters {piece.char_start} and {end}"
            )
        return Spoken(samples=np.frombuffer(sound, dtype=np.int16), marks=tuple(marks))

    def end(self) -> None:
        """End the process and what it forked, now."""
        self.ready = False
        with suppress(OSError):  # ProcessLookupError: it is gone already
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(OSError):
            self._stdin.close()
        self._stdout.close()
        self._process.wait()

    def _receive(self, limit_s: float, checkpoint: Checkpoint) -> tuple[bytes, bytes]:
        """The next message; a checkpoint every `_POLL_S` while it is awaited."""
        deadline = time.monotonic() + limit_s
        kind, length = espeak_speaker.HEADER.unpack(
            self._read(espeak_speaker.HEADER.size, deadline, checkpoint)
        )
        return kind, self._read(length, deadline, checkpoint)

    def _read(self, count: int, deadline: float, checkpoint: Checkpoint) -> bytes:
        data = b""
        while len(data) < count:
            if not self._poll.poll(_POLL_S * 1000):
                checkpoint(None)
                if time.monotonic() > deadline:
                    raise ModelError("eSpeak NG's process says nothing any more")
                continue
            part = os.read(self._stdout.fileno(), count - len(data))
            if not part:
                raise ModelError("eSpeak NG's process has ended")
            data += part
        return data


def _find(held: ExitStack) -> tuple[str, str]:
    """The library and its data: of the `espeakng-loader` wheel, else of the system (which knows its own)."""
    try:
        import espeakng_loader

        library, data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    except (ImportError, RuntimeError):  # RuntimeError: a wheel without its data folder
        return {"darwin": "libespeak-ng.dylib"}.get(sys.platform, "libespeak-ng.so.1"), ""
    if len(os.fsencode(data)) > _MAX_DATA_PATH:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="sm-"))
        short = Path(folder, "espeak-ng-data")
        short.symlink_to(data, target_is_directory=True)
        data = str(short)
    return str(library), str(data)


def _languages(voices: list[dict[str, Any]]) -> dict[str, Language]:
    """All language codes that the voices claim.

    Where several voices claim one code, the one that claims it with the best priority has it. A voice
    that is left without any code gets its file name.
    """
    best: dict[str, tuple[int, Language]] = {}
    for voice in voices:
        identifier = voice["identifier"]
        for priority, code in [*voice["claims"], (_BY_FILE_NAME, identifier.rpartition("/")[2].lower())]:
            if code not in best or priority < best[code][0]:
                best[code] = (priority, Language(code=code, name=voice["name"], identifier=identifier))
    return {code: best[code][1] for code in sorted(best)}


def _order(piece: Piece, voice: str, manner: Manner) -> bytes:
    order = {
        "voice": voice,
        "words_per_minute": round(WORDS_PER_MINUTE * manner.speed),
        "pitch": manner.pitch,
        "text": piece.text,
        "pause_at_end": not piece.last,
    }
    return json.dumps(order).encode() + b"\n"


def _marks(payload: bytes, char_start: int) -> Iterator[Mark]:
    for kind, position, sample in espeak_speaker.MARK.iter_unpack(payload):
        yield Mark(kind=_MARK_KINDS[kind], char=char_start + position - 1, sample=sample)
