"""The lines of a file as numbered bytes, in the memory of one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

LONGEST_LINE_BYTES = 8 * 1024 * 1024
BOM = b"\xef\xbb\xbf"

NOT_UTF8 = "this byte is not UTF-8; save the file as UTF-8"
UTF16 = "the file is not UTF-8 but looks like UTF-16; save it as UTF-8"


def raw_lines(source: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Number the lines from 1; `None` stands for one that is too long to be kept."""
    number = 0
    while raw := source.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(BOM)
        if len(raw) > LONGEST_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := source.readline(LONGEST_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, raw


def too_long() -> str:
    """What is said of a line that was not kept."""
    return f"the line is longer than {LONGEST_LINE_BYTES} bytes; split it"


def looks_like_utf16(raw: bytes) -> bool:
    """Whether a line has the byte order mark, or the zero bytes, of UTF-16."""
    return raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in raw[:64]
