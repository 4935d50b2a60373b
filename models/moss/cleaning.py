"""Cleaning a text before it is spoken: marks of layout go, what is said stays as it is.

Links, addresses, file names and tags are taken out first and put back at the end, so that no rule breaks them.

A text may have 100,000 characters of anybody's choice, so no pattern may look at all of the rest of it from each
of them: what is repeated gives nothing back (`++`), begins where a run begins, or has a longest length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_HAN_KANA = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_CLOSERS = "\"'”’»)]}）】》」』〗"
_HELD = "\U000f0000-\U000ffffd"  # stands for what was taken out; no such character survives `_plain`
_FIRST_HELD = 0xF0000
_MOST_HELD = 65_534

_LONGEST_TOKEN = 200
_LONGEST_QUOTE = 1000

_LINK = re.compile(rf"\[([^\]\n]{{1,{_LONGEST_QUOTE}}}+)\]\((https?://[^)\s]{{1,{_LONGEST_QUOTE}}}+)\)")
_MARKS = (
    re.compile(r"^\s*#{1,6}\s+"),
    re.compile(r"^\s*>\s*"),
    re.compile(r"^\s*[-*+]\s+"),
    re.compile(r"^\s*\d+[.)]\s+"),
)
_BEFORE = r"(?:(?<!\s)\s++)?"
_ARROW = re.compile(rf"{_BEFORE}(?:<[-=]++>?|(?<![-=])[-=]++>|[\u2190-\u21ff\u27f0-\u27ff\u2b05-\u2b0d])\s*+")
_PROTECTED = re.compile(
    r"https?://[!-~]+"
    r"|(?<![\w.%+-])[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}\b"
    r"|(?<![\w])@[A-Za-z0-9_]+"
    r"|(?<![A-Za-z0-9])[ur]/[A-Za-z0-9_]+"
    rf"|(?<!\w)#[A-Za-z0-9_{_HAN_KANA}]+"
    r"|(?<![A-Za-z0-9])\.[A-Za-z][A-Za-z0-9_.-]*"
    rf"|(?<![A-Za-z0-9])(?=[A-Za-z0-9])(?=[0-9_./:+-]{{0,{_LONGEST_TOKEN}}}+[A-Za-z])"
    rf"(?=[A-Za-z0-9_]{{0,{_LONGEST_TOKEN}}}+[./:+-])[A-Za-z0-9_./:+-]++"
)
_WORD_BEGINS = "[0-9]*+[A-Za-z]"
_WORD = f"(?<![A-Za-z0-9])(?={_WORD_BEGINS})[A-Za-z0-9]++"
_SPACING: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(f"(?<=[{_HAN_KANA}]) (?=[{_HAN_KANA}0-9])|(?<=[0-9]) (?=[{_HAN_KANA}])"), ""),
    (re.compile(f"(?<=[{_HAN_KANA}])(?={_WORD_BEGINS}|[{_HELD}])"), " "),
    (re.compile(f"({_WORD}|[{_HELD}])(?=[{_HAN_KANA}])"), r"\1 "),
    (re.compile(" ?([，。！？；：、（）《》【】「」『』〖〗]) ?"), r"\1"),
    (re.compile(" +([,.;!?])"), r"\1"),
)
_QUOTED = re.compile(
    "|".join(
        rf"{begin}([^{inner}]{{1,{_LONGEST_QUOTE}}}+){end}"
        for begin, inner, end in (
            (r"\[", r"\[\]", r"\]"), (r"\{", "{}", r"\}"), ("【", "】", "】"), ("〖", "〗", "〗"), ("『", "』", "』"),
            ("「", "」", "」"),
        )
    )
)  # fmt: skip
_TITLE = re.compile(rf"(^|[。！？!?；;])《([^》]{{1,{_LONGEST_QUOTE}}}+)》(?=$|[，。！？；：,!?;:—–-])")
_DASHES = re.compile(rf"{_BEFORE}[-—–―]{{2,}}+\s*+")
_REPEATS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.{3,}|…{2,}"), "。"),
    (re.compile("。{2,}"), "。"),
    (re.compile("[,，]{2,}"), "，"),
    (re.compile("[!！]{2,}"), "！"),
    (re.compile("[?？]{2,}"), "？"),
    (re.compile("[!！?？]{2,}"), "？！"),
)


def clean(text: str) -> str:
    """Remove marks of layout and make punctuation and spaces regular.

    Returns:
        One line that ends in punctuation, or an empty text where nothing is left. An end that was missing
        becomes an ideographic full stop in every language, as the model was trained.
    """
    text = _ARROW.sub("，", _one_line(_plain(text)))
    held: list[str] = []
    text = _PROTECTED.sub(_taken(held), text)
    text = _spaced(text.replace("_", " "))
    text = _QUOTED.sub(lambda m: f'"{next(part for part in m.groups() if part)}"', text)
    text = _DASHES.sub("。", _TITLE.sub(r"\1\2", text))
    for pattern, replacement in _REPEATS:
        text = pattern.sub(replacement, text)
    text = _spaced(text)
    text = re.sub(f"[{_HELD}]", lambda m: held[ord(m[0]) - _FIRST_HELD], text).strip()
    return _ended(text)


def _plain(text: str) -> str:
    """One kind of line end and space, and no invisible characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u3000", " ")
    return "".join(c for c in text if c in "\n\t" or not unicodedata.category(c).startswith("C"))


def _one_line(text: str) -> str:
    text = _LINK.sub(r"\1 \2", text)
    lines = []
    for line in text.split("\n"):
        for mark in _MARKS:
            line = mark.sub("", line)  # noqa: PLW2901 - peeled in turn
        if line.strip():
            lines.append(line.strip())
    return "".join([*map(_ended, lines[:-1]), *lines[-1:]])


def _taken(held: list[str]) -> Callable[[re.Match[str]], str]:
    def take(match: re.Match[str]) -> str:
        if len(held) >= _MOST_HELD:
            return match[0]
        held.append(match[0])
        return chr(_FIRST_HELD + len(held) - 1)

    return take


def _spaced(text: str) -> str:
    for pattern, replacement in _SPACING:
        text = pattern.sub(replacement, text)
    return text


def _ended(text: str) -> str:
    core = text.rstrip(_CLOSERS + " ")
    last = core[-1:] or text[-1:]
    return text if not last or unicodedata.category(last).startswith("P") else text + "。"
