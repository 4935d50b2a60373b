"""The tables of uroman, which take seconds to read: imported in helper processes only, ahead of the first text."""

from __future__ import annotations

from uroman import RomFormat, Uroman

_UROMAN = Uroman()


def romanized(text: str, language: str) -> list[tuple[int, int, str]]:
    """(first character, behind the last, what stands for them in Latin script) for each part of the text."""
    edges = _UROMAN.romanize_string(text, lcode=language, rom_format=RomFormat.EDGES)
    return [(edge.start, edge.end, edge.txt) for edge in edges]
