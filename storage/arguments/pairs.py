"""Arguments as a command line gives them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def read_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `name=value` pairs: a value is JSON if it can be, else a text.

    Raises:
        ValueError: One has no `=`.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"{pair!r} is not of the form name=value")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
