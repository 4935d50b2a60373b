"""Files to put into a bucket."""

from __future__ import annotations

from pathlib import Path

from soundmill.storage.bucket import PART_BYTES


def given(folder: Path, content: bytes, name: str = "given") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def large(parts: float) -> bytes:
    """Bytes that differ everywhere, for so many parts."""
    size = int(parts * PART_BYTES)
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8 + 1))[:size]
