"""The ids of new jobs: ULIDs, which sort by the moment at which they were made.

https://github.com/ulid/spec: 26 characters of Crockford's base 32, 48 bits of milliseconds and then 80
random ones. Several of the same moment count up from the first, as the specification has it.
"""

from __future__ import annotations

import secrets

from ulid import ULID

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_COUNTED = 5
"""The last digits, of 5 bits each, which count; those before them are the same for all of a call."""


def new_ids(count: int) -> list[str]:
    """That many ids in ascending order, at most 16 million.

    Making one with the library costs as much as inserting its row.
    """
    head = str(ULID())[:-_COUNTED]
    first = secrets.randbits(5 * _COUNTED - 1)  # the highest bit stays clear, so that no count overflows
    return [
        head + _DIGITS[number >> 20] + _PAIRS[number >> 10 & 1023] + _PAIRS[number & 1023]
        for number in range(first, first + count)
    ]
