"""Texts of strangers on their way to a terminal or a log, where some characters are obeyed.

Control characters move the cursor, forge lines and change a terminal's state, and some of Unicode turn
around the direction in which a line reads. Nothing but what can be seen passes.
"""

from __future__ import annotations

import json
import unicodedata


def escaped(text: str, keep: str = "") -> str:
    r"""The text with every such character as JSON writes it: `\n`, `\u001b`.

    Args:
        text: Anything; in a JSON document it still says the same.
        keep: Characters that stay as they are.
    """
    if text.isprintable():
        return text
    obeyed = [letter for letter in set(text) if _is_obeyed(letter) and letter not in keep]
    return text.translate({ord(letter): json.dumps(letter)[1:-1] for letter in obeyed})


def plain(text: str) -> str:
    """The text on one line, with replacement characters for those that would be obeyed."""
    if text.isprintable():
        return text
    return "".join(
        " " if letter in "\n\r\t" else "\ufffd" if _is_obeyed(letter) else letter for letter in text
    )


def _is_obeyed(letter: str) -> bool:
    # A no-break or an ideographic space is not "printable", and harmless.
    return not letter.isprintable() and unicodedata.category(letter) != "Zs"
