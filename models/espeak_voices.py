"""The languages and voice variants of eSpeak NG, as the library lists them.

`python -m soundmill.models.espeak_voices FILE` writes those that really speak as JSON, for the catalogue
that has to check a job's arguments where no library is installed.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Voice(ctypes.Structure):
    """`espeak_VOICE` of speak_lib.h."""

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


VoiceTable = ctypes.POINTER(ctypes.POINTER(Voice))

_BY_FILE_NAME = 1000  # behind every priority that a voice states itself
_SAMPLE_TEXT = "1 2 3"  # every language has its digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language code, the name of its voice, and the identifier by which the library loads it."""

    code: str
    name: str
    identifier: str


def list_languages(lib: Any) -> dict[str, Language]:
    """All language codes that the voices claim.

    Where several voices claim one code, the one that claims it with the best priority has it. A voice
    that is left without any code gets its file name.
    """
    best: dict[str, tuple[int, Language]] = {}
    for voice in _voices(lib, None):
        identifier, name = voice.identifier.decode(), voice.name.decode().strip()
        claims = [*_claims(voice.languages), (_BY_FILE_NAME, identifier.rpartition("/")[2].lower())]
        for priority, code in claims:
            if code not in best or priority < best[code][0]:
                best[code] = (priority, Language(code=code, name=name, identifier=identifier))
    return {code: best[code][1] for code in sorted(best)}


def list_variants(lib: Any) -> frozenset[str]:
    """The names that may follow a language as its voice variant."""
    wanted = Voice()
    text = ctypes.create_string_buffer(b"variant")  # what `espeak-ng --voices=variant` asks for
    wanted.languages = ctypes.addressof(text)
    return frozenset(
        voice.identifier.decode(errors="replace").rpartition("/")[2]
        for voice in _voices(lib, ctypes.byref(wanted))
    )


def list_voices(lib: Any, wanted: Any = None) -> Any:
    """Have the library read its voices; `lib.voices` is where its table of them then lies."""
    lib.voices = lib.espeak_ListVoices(wanted)
    return lib.voices


def _voices(lib: Any, wanted: Any) -> Iterator[Any]:
    table = list_voices(lib, wanted)
    index = 0
    while table[index]:
        voice = table[index].contents
        if not voice.identifier.startswith(b"mb/"):  # MBROLA voices need a program of their own
            yield voice
        index += 1


def _claims(address: int) -> Iterator[tuple[int, str]]:
    while priority := ctypes.c_ubyte.from_address(address).value:
        code = ctypes.string_at(address + 1)
        yield priority, code.decode()
        address += len(code) + 2


def speaking_voices() -> dict[str, Any]:
    """The languages and variants that say something, in the form of the catalogue's list.

    The library also lists languages whose dictionary it does not carry; those stay silent.
    """
    from .espeak import Espeak, Manner

    espeak = Espeak()
    try:

        def speaks(language: str, variant: str | None = None) -> bool:
            manner = Manner(language=language, variant=variant)
            pieces = espeak.speak(_SAMPLE_TEXT, manner, lambda _progress: None)
            return any(mark.kind == "word" for piece in pieces for mark in piece.marks)

        return {
            "languages": [
                {"code": code, "name": language.name}
                for code, language in espeak.languages.items()
                if speaks(code)
            ],
            "variants": sorted(name for name in espeak.variants if name.isascii() and speaks("en-us", name)),
        }
    finally:
        espeak.close()


def main(arguments: list[str]) -> None:
    """Write the list to the file that is named."""
    text = json.dumps(speaking_voices(), indent=1, ensure_ascii=False)
    Path(arguments[0]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
