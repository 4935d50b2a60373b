"""What a safetensors file says about itself: names, dtypes and shapes, without a tensor being read.

The file begins with the length of its header in 8 bytes, little-endian, and the header is JSON.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ModelUnavailable

_LONGEST_HEADER = 100 * 1024 * 1024  # what the library itself allows


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor as a file announces it; `dtype` is one of the format's names, such as `BF16`."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file that is as long as its header says.

    Raises:
        ModelUnavailable: It cannot be read, is truncated, or is no such file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                raise ModelUnavailable(f"{path} is truncated or no safetensors file; download it again")
            header = file.read(length)
    except OSError as error:
        raise ModelUnavailable(f"{path} cannot be read: {error.strerror}") from error
    try:
        tensors, end = _parsed(json.loads(header), path)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelUnavailable(f"{path} has a damaged header; download it again") from error
    if size != 8 + length + end:
        raise ModelUnavailable(
            f"{path} is truncated: it has {size} of {8 + length + end} bytes; download it again"
        )
    return tensors


def stored_in(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """The tensors of several files together; see `stored_tensors`."""
    return {name: tensor for file in files for name, tensor in stored_tensors(file).items()}


def _parsed(header: dict[str, Any], path: Path) -> tuple[dict[str, StoredTensor], int]:
    header.pop("__metadata__", None)
    tensors = {
        name: StoredTensor(
            dtype=str(entry["dtype"]), shape=tuple(int(size) for size in entry["shape"]), file=path
        )
        for name, entry in header.items()
    }
    return tensors, max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
