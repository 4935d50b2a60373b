"""Whether the folder of a checkpoint is whole, as far as sizes and headers tell; nothing is loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.ckpt")


def damage_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, in a sentence that names the first at fault.

    A model's own loader looks closer; this is what an interrupted download leaves behind.
    """
    for index in sorted(folder.rglob("*.safetensors.index.json")):
        try:
            named = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return f"{index} cannot be read; download it again"
        for name in sorted(map(str, named)):
            if not (index.parent / name).is_file():
                return f"{index.parent / name} is missing, which {index.name} names; download it"
    files = [file for pattern in _WEIGHTS for file in sorted(folder.rglob(pattern))]
    if not files:
        return f"{folder} holds no weights ({', '.join(_WEIGHTS)}); download the checkpoint into it"
    return next((trouble for file in files if (trouble := _truncated(file))), None)


def _truncated(file: Path) -> str | None:
    size = file.stat().st_size
    if file.suffix != ".safetensors":
        return f"{file} is empty; download it again" if size == 0 else None
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= size - 8:
            return f"{file} is truncated or no safetensors file; download it again"
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{file} has a damaged header; download it again"
    return None if size == end else f"{file} has {size} of {end} bytes; download it again"
