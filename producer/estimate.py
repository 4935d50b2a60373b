"""How long a text takes to be spoken, before anybody has spoken it."""

from __future__ import annotations

LETTERS_PER_S = 15.2
"""The LJ Speech Dataset: 1,308,678 characters in 23 h 55 min 17 s, spaces and pauses included."""

SYLLABLES_PER_S = 5.2
"""Mandarin in Pellegrino, Coupé and Marsico, Language 87 (2011), table 1: 5.18 syllables a second."""

ASSUMPTION = (
    f"{LETTERS_PER_S} characters a second (LJ Speech); {SYLLABLES_PER_S} for Chinese, Japanese and Korean "
    "letters (Pellegrino et al. 2011); divided by the argument speed where there is one"
)

_SYLLABIC = (("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uac00", "\ud7af"), ("\uf900", "\ufaff"))


def speech_s(text: str, speed: float = 1.0) -> float:
    """Seconds that a text takes, by the assumption above: off by a third either way for one voice."""
    syllables = 0 if text.isascii() else sum(_is_syllable(letter) for letter in text)
    return ((len(text) - syllables) / LETTERS_PER_S + syllables / SYLLABLES_PER_S) / speed


def _is_syllable(letter: str) -> bool:
    return any(first <= letter <= last for first, last in _SYLLABIC)
