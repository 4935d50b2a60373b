"""A process that speaks: it loads eSpeak NG once, and forks for every piece of text.

Run as a script by `espeak.py`, never imported; it needs nothing but the standard library. A fork starts
from the same memory every time, so the same piece makes the same samples whatever was spoken before; it
takes its leaks with it; and when eSpeak aborts on a text (its fixed buffers overflow on long words of
characters that it does not know), nobody else is harmed.

Protocol: one JSON order a line on stdin, messages of a kind byte, a length and a payload on stdout. The
process ends with its stdin.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

HEADER = struct.Struct("<cI")
MARK = struct.Struct("<cii")  # word, sound or pause; character from 1; sample from 0
VOICES, FAILED, SAMPLES, MARKS, END = b"V", b"F", b"S", b"M", b"E"
WORD, SOUND, PAUSE = b"w", b"s", b"p"
SAMPLE_RATE_HZ = 22050

_NOISE_SEED = 1
_BUFFER_MS = 500  # of audio between two messages: under a millisecond of work

# The names of speak_lib.h of eSpeak NG 1.50 to 1.52.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1  # neither SSML nor phoneme mnemonics: user text is plain text
_ENDPAUSE = 0x1000
_RATE, _PITCH = 1, 3
_EVENT_END_OF_LIST, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7


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


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),  # pairs of a priority byte and a string, ended by a zero byte
        ("identifier", ctypes.c_char_p),  # the path of the voice file, such as `gmw/en-US`
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("unused", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


def send(kind: bytes, payload: bytes = b"") -> None:
    message = HEADER.pack(kind, len(payload)) + payload
    while message:
        message = message[os.write(1, message) :]


def opened(library: str, data: str) -> Any:
    """Load and start the library; `data` may be empty if it knows its own."""
    lib = ctypes.CDLL(library)
    lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    lib.espeak_SetSynthCallback.argtypes = [_Callback]
    lib.espeak_SetSynthCallback.restype = None
    lib.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    lib.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    lib.espeak_ListVoices.argtypes = [ctypes.POINTER(_Voice)]
    lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
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
    options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_DONT_EXIT
    rate = lib.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MS, os.fsencode(data) or None, options)
    if rate != SAMPLE_RATE_HZ:
        raise OSError("the data folder is missing or damaged")
    return lib


def voices(lib: Any) -> dict[str, Any]:
    """All voices with the language codes that they claim, and the names of the variants."""
    wanted = _Voice()
    text = ctypes.create_string_buffer(b"variant")  # what `espeak-ng --voices=variant` asks for
    wanted.languages = ctypes.addressof(text)
    return {
        "variants": [
            _text(voice.identifier).rpartition("/")[2] for voice in _listed(lib, ctypes.byref(wanted))
        ],
        # Last, because the library goes by the list that was asked for last to find a voice.
        "voices": [
            {
                "identifier": _text(voice.identifier),
                "name": _text(voice.name).strip(),
                "claims": list(_claims(voice.languages)),
            }
            for voice in _listed(lib, None)
            if not voice.identifier.startswith(b"mb/")  # MBROLA voices need a program of their own
        ],
    }


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _listed(lib: Any, wanted: Any) -> Iterator[Any]:
    table = lib.espeak_ListVoices(wanted)
    index = 0
    while table[index]:
        yield table[index].contents
        index += 1


def _claims(address: int) -> Iterator[tuple[int, str]]:
    while priority := ctypes.c_ubyte.from_address(address).value:
        code = ctypes.string_at(address + 1)
        yield priority, _text(code)
        address += len(code) + 2


def speak(lib: Any, order: dict[str, Any]) -> int:
    """Speak one piece, sending samples and marks; returns the library's status, 0 if all is well."""
    if status := lib.espeak_SetVoiceByName(order["voice"].encode()):
        return int(status)
    lib.espeak_SetParameter(_RATE, order["words_per_minute"], 0)
    lib.espeak_SetParameter(_PITCH, order["pitch"], 0)
    _seed(lib)
    callback = _Callback(_receive)  # this name keeps it alive while C holds it
    lib.espeak_SetSynthCallback(callback)
    text = order["text"].encode()
    flags = _CHARS_UTF8 | (_ENDPAUSE if order["pause_at_end"] else 0)
    return int(lib.espeak_Synth(text, len(text) + 1, 0, _POS_CHARACTER, 0, flags, None, None))


def _seed(lib: Any) -> None:
    """Breathy voices draw noise that is seeded with the time of day; before 1.52 from libc's `rand`."""
    ctypes.CDLL(None).srand(_NOISE_SEED)
    if hasattr(lib, "espeak_ng_SetRandSeed"):
        lib.espeak_ng_SetRandSeed(ctypes.c_long(_NOISE_SEED))


def _receive(samples: int | None, count: int, events: Any) -> int:
    try:
        if samples and count > 0:
            send(SAMPLES, ctypes.string_at(samples, count * 2))
        send(MARKS, b"".join(_marks(events)))
    except BaseException:  # noqa: BLE001 - nothing may unwind through C; whoever asked is gone
        os._exit(1)
    return 0


def _marks(events: Any) -> Iterator[bytes]:
    index = 0
    while (event := events[index]).type != _EVENT_END_OF_LIST:
        index += 1
        if event.type == _EVENT_WORD:
            yield MARK.pack(WORD, event.text_position, event.sample)
        elif event.type == _EVENT_PHONEME:
            kind = PAUSE if event.name.startswith(b"_") or not event.name else SOUND
            yield MARK.pack(kind, event.text_position, event.sample)


def main(library: str, data: str) -> None:
    """Say which voices there are, then speak until stdin ends."""
    try:
        lib = opened(library, data)
    except OSError as error:
        send(FAILED, str(error).encode())
        return
    send(VOICES, json.dumps(voices(lib)).encode())
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = speak(lib, json.loads(line))
            finally:
                os._exit(status and 1)
        _, status = os.waitpid(child, 0)
        send(END, json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
