"""Whether the folder of a checkpoint is whole, as far as sizes and headers tell; nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from soundmill.models.errors import ModelUnavailable
from soundmill.models.tensor_files import stored_tensors
from soundmill.storage.checkpoints import Record

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.ckpt")


def damage_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, in a sentence that names the first at fault.

    A model's own loader looks closer; this is what an interrupted download leaves behind. What a pull left out
    on purpose is not missed.
    """
    record = Record.read(folder)
    left_out = set() if record is None else {folder / name for name in record.left_out()}
    for index in sorted(folder.rglob("*.safetensors.index.json")):
        try:
            named = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return f"{index} cannot be read; download it again"
        for name in sorted(map(str, named)):
            if not (index.parent / name).is_file() and index.parent / name not in left_out:
                return f"{index.parent / name} is missing, which {index.name} names; download it"
    files = [file for pattern in _WEIGHTS for file in sorted(folder.rglob(pattern))]
    if not files:
        return f"{folder} holds no weights ({', '.join(_WEIGHTS)}); download the checkpoint into it"
    return next((trouble for file in files if (trouble := _damage_of_file(file))), None)


def _damage_of_file(file: Path) -> str | None:
    if file.suffix != ".safetensors":
        return f"{file} is empty; download it again" if file.stat().st_size == 0 else None
    try:
        stored_tensors(file)
    except ModelUnavailable as error:
        return str(error)
    return None
