"""eSpeak NG through its C library: text in, samples and the places of its words out.

Three properties of the library shape this file:

- All its state lies in C globals, so one copy of it speaks for one thread at a time. An `Espeak` owns a
  private copy of the library file (no other user of eSpeak in the process is disturbed) and a lock.
- What it says depends on what it said before (the phase of the pitch flutter is never reset, not even by
  `espeak_Terminate`). The same request must give the same audio whatever ran beside it, so every piece
  is spoken by a freshly loaded library: about 5 ms for up to a minute of speech.
- A text is spoken in one C call. Long texts are cut into pieces, and the lock is free between them, so
  that a short job never waits for a book.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError, ModelError, ModelUnavailable
from .espeak_voices import Voice, VoiceTable, list_languages, list_variants, list_voices
from .words import Mark, MarkKind, Piece, cut_pieces, speakable

SAMPLE_RATE_HZ = 22050
WORDS_PER_MINUTE = 175  # eSpeak's own normal rate
PIECE_CHARS = 1000  # about a minute of speech, a tenth of a second of work
REMEDY = "eSpeak NG is not installed: run `pip install 'soundmill[speech]'`"

_NOISE_SEED = 1
_LOCK_POLL_S = 0.2
_BUFFER_MS = 500  # of audio between two callbacks: under a millisecond of work
_MAX_DATA_PATH = 150  # its buffer holds 160 characters, and it says nothing when a path is longer

# The names of speak_lib.h of eSpeak NG 1.50 to 1.52.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1  # neither SSML nor phoneme mnemonics: user text is plain text
_ENDPAUSE = 0x1000
_RATE, _PITCH = 1, 3
_EVENT_END_OF_LIST, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7

# For those that have to use the library itself: its globals are everybody's.
_SHARED_LOCK = threading.Lock()


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, not bytes; the first is 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),  # a union: a phoneme's name, unterminated when it has 8 bytes
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))

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
class Spoken:
    """The sound of one piece of a text.

    Attributes:
        samples: int16 [S] at `SAMPLE_RATE_HZ`.
        marks: In order of time; samples count from this piece's first, characters from the text's first.
        char_end: How far the text has been spoken.
    """

    samples: npt.NDArray[np.int16]
    marks: tuple[Mark, ...]
    char_end: int


class Espeak:
    """One private copy of eSpeak NG. Safe to share among threads, which then take turns.

    Attributes:
        languages: What it can speak, by code.
        variants: The names of the voice variants.
    """

    def __init__(self) -> None:
        """Find the library, and ask it for its languages.

        Raises:
            ModelUnavailable: It is not installed, or does not start.
        """
        library, data = _find()
        self._library, descriptor = _private_copy(library)
        self._lock = _SHARED_LOCK if descriptor is None else threading.Lock()
        self._data = data
        self._held = ExitStack()
        if descriptor is not None:
            self._held.callback(os.close, descriptor)
        if data is not None and len(os.fsencode(data)) > _MAX_DATA_PATH:
            folder = self._held.enter_context(tempfile.TemporaryDirectory(prefix="sm-"))
            self._data = Path(folder, "espeak-ng-data")
            self._data.symlink_to(data, target_is_directory=True)
        with self._lock, self._loaded() as lib:
            self.languages = list_languages(lib)
            self.variants = list_variants(lib)

    def close(self) -> None:
        """Free the private copy; `speak` fails from now on."""
        with self._lock:
            self._held.close()

    def speak(self, text: str, manner: Manner, checkpoint: Checkpoint) -> Iterator[Spoken]:
        """Speak a text, piece by piece.

        Args:
            text: Plain text; markup in it is read out.
            checkpoint: Called at least every half second, with the share of the text that is done.
                What it raises ends the speech and passes through.

        Raises:
            InputError: The language or the variant is unknown.
            ModelError: The library refused the text.
        """
        name = self._voice_name(manner)
        for piece in cut_pieces(speakable(text), PIECE_CHARS):
            checkpoint(piece.char_start / len(text))
            with self._turn(checkpoint), self._loaded() as lib:
                _set_manner(lib, name, manner)
                spoken = _speak_piece(lib, piece, checkpoint)
            yield spoken

    def _voice_name(self, manner: Manner) -> bytes:
        # Names are checked against the library's own lists: it would open any path it is given.
        language = self.languages.get(manner.language)
        if language is None:
            raise InputError(f"eSpeak NG does not speak the language {manner.language!r}")
        if manner.variant is None:
            return language.identifier.encode()
        if manner.variant not in self.variants:
            raise InputError(f"eSpeak NG has no voice variant {manner.variant!r}")
        return f"{language.identifier}+{manner.variant}".encode()

    @contextmanager
    def _turn(self, checkpoint: Checkpoint) -> Iterator[None]:
        while not self._lock.acquire(timeout=_LOCK_POLL_S):
            checkpoint(None)
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _loaded(self) -> Iterator[Any]:
        """A library fresh from its file, gone from memory afterwards. The caller holds the lock."""
        try:
            lib = ctypes.CDLL(str(self._library))
        except OSError as error:
            raise ModelUnavailable(REMEDY) from error
        lib.voices = None
        try:
            _declare(lib)
            options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_DONT_EXIT
            data = str(self._data).encode() if self._data else None
            if lib.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MS, data, options) != SAMPLE_RATE_HZ:
                raise ModelUnavailable("eSpeak NG does not start: its data folder is missing or damaged")
            list_voices(lib)  # it would do so itself to find a voice, but not tell where the table is
            yield lib
        finally:
            lib.espeak_Terminate()
            self._unload(lib)

    def _unload(self, lib: Any) -> None:
        if sys.platform == "win32":
            _ctypes.FreeLibrary(lib._handle)
            return
        _ctypes.dlclose(lib._handle)
        # The table of voices is a static variable that `espeak_Terminate` forgets: 2 kB a piece. Once the
        # library is really gone (musl keeps it), nobody else can know of it.
        if lib.voices and not self._is_resident():
            libc = ctypes.CDLL(None)
            libc.free.argtypes = [ctypes.c_void_p]
            libc.free(ctypes.cast(lib.voices, ctypes.c_void_p))

    def _is_resident(self) -> bool:
        try:
            again = ctypes.CDLL(str(self._library), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            return False
        _ctypes.dlclose(again._handle)
        return True


def _find() -> tuple[Path, Path | None]:
    """The library and its data: of the `espeakng-loader` wheel, else of the system (which knows its own)."""
    try:
        import espeakng_loader

        return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())
    except (ImportError, RuntimeError):  # RuntimeError: a wheel without its data folder
        pass
    names = {"win32": "libespeak-ng.dll", "darwin": "libespeak-ng.dylib"}
    return _system_path(names.get(sys.platform, "libespeak-ng.so.1")), None


def _system_path(name: str) -> Path:
    """Where the dynamic loader finds a library."""
    try:
        lib = ctypes.CDLL(name)
    except OSError as error:
        raise ModelUnavailable(REMEDY) from error
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    found = [line[line.index("/") :] for line in lines if f"/{name.partition('.')[0]}." in line]
    if found:
        _ctypes.dlclose(lib._handle)
    return Path(found[0] if found else name)


def _private_copy(library: Path) -> tuple[Path, int | None]:
    """Copy the library into memory, so that its globals belong to one `Espeak`.

    Returns:
        The path to load and the descriptor that keeps it; where memory files are not to be had, the
        library itself and `None`.
    """
    try:
        image = library.read_bytes()
        descriptor = os.memfd_create("soundmill-espeak")
    except (AttributeError, OSError):  # not Linux; or a library that only the loader can find
        return library, None
    with open(descriptor, "wb", closefd=False) as file:
        file.write(image)
    # Two such paths are two libraries to the loader, as long as both descriptors are open.
    path = Path(f"/proc/self/fd/{descriptor}")
    try:
        _ctypes.dlclose(ctypes.CDLL(str(path))._handle)
    except OSError:  # a system that runs no code from memory
        os.close(descriptor)
        return library, None
    return path, descriptor


def _declare(lib: Any) -> None:
    """Give the functions that take or return pointers and sizes their types."""
    lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    lib.espeak_SetSynthCallback.argtypes = [_Callback]
    lib.espeak_SetSynthCallback.restype = None
    lib.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    lib.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    lib.espeak_ListVoices.argtypes = [ctypes.POINTER(Voice)]
    lib.espeak_ListVoices.restype = VoiceTable
    lib.espeak_Synth.argtypes = [
        ctypes.c_char_p,  # text
        ctypes.c_size_t,  # its size with the final NUL
        ctypes.c_uint,  # start position
        ctypes.c_int,  # of which kind
        ctypes.c_uint,  # end position
        ctypes.c_uint,  # flags
        ctypes.POINTER(ctypes.c_uint),
        ctypes.c_void_p,
    ]


def _set_manner(lib: Any, voice: bytes, manner: Manner) -> None:
    if lib.espeak_SetVoiceByName(voice) != 0:
        raise ModelError(f"eSpeak NG cannot load the voice of {manner.language!r}")
    lib.espeak_SetParameter(_RATE, round(WORDS_PER_MINUTE * manner.speed), 0)
    lib.espeak_SetParameter(_PITCH, manner.pitch, 0)
    # Breathy voices draw noise, seeded with the time of day. Before 1.52 it came from libc's `rand`.
    if hasattr(lib, "espeak_ng_SetRandSeed"):
        lib.espeak_ng_SetRandSeed(ctypes.c_long(_NOISE_SEED))


def _speak_piece(lib: Any, piece: Piece, checkpoint: Checkpoint) -> Spoken:
    sound = bytearray()
    marks: list[Mark] = []
    failures: list[BaseException] = []

    def receive(samples: int | None, count: int, events: Any) -> int:
        try:
            if samples and count > 0:
                sound.extend(ctypes.string_at(samples, count * 2))
            marks.extend(_marks(events, piece.char_start))
            checkpoint(None)
        except BaseException as error:  # noqa: BLE001 - nothing may unwind through C; raised again below
            failures.append(error)
        return 1 if failures else 0

    callback = _Callback(receive)  # this name keeps it alive while C holds it
    lib.espeak_SetSynthCallback(callback)
    text = piece.text.encode()
    flags = _CHARS_UTF8 | (0 if piece.last else _ENDPAUSE)
    status = lib.espeak_Synth(text, len(text) + 1, 0, _POS_CHARACTER, 0, flags, None, None)
    if failures:
        raise failures[0]
    if status != 0:
        raise ModelError("eSpeak NG could not speak the text")
    return Spoken(
        samples=np.frombuffer(bytes(sound), dtype=np.int16),
        marks=tuple(marks),
        char_end=piece.char_start + len(piece.text),
    )


def _marks(events: Any, char_start: int) -> Iterator[Mark]:
    index = 0
    while (event := events[index]).type != _EVENT_END_OF_LIST:
        index += 1
        kind: MarkKind
        if event.type == _EVENT_WORD:
            kind = "word"
        elif event.type == _EVENT_PHONEME:
            kind = "pause" if event.name.startswith(b"_") or not event.name else "sound"
        else:
            continue
        yield Mark(kind=kind, char=char_start + event.text_position - 1, sample=event.sample)
