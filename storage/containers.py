"""Whether the end of an audio file is missing, by its own account of its length.

libsndfile quietly takes the bytes that are there for all there should be in WAV, AIFF and Ogg.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

# Who writes to a pipe cannot go back to the header: ffmpeg leaves 0xFFFFFFFF there, sox and arecord
# some number close to 2^31.
UNKNOWN_BYTES = 0x7FFF0000
MAX_CHUNKS = 4096

_MP3_FRAME_BYTES = 2881  # the longest: layer III, MPEG 2.5, 160 kbit/s at 8 kHz, padded

_OGG_HEADER_BYTES = 27  # RFC 3533, section 6
_OGG_MAX_PAGE_BYTES = _OGG_HEADER_BYTES + 255 + 255 * 255


def missing_bytes(path: Path) -> int:
    """How many bytes the file lacks at its end, at least; 0 when none do or its kind does not tell."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(12)
        if magic[:4] in (b"RIFF", b"RF64"):
            end = _end_of_chunk(file, b"data", "<")
        elif magic[:4] == b"RIFX":
            end = _end_of_chunk(file, b"data", ">")
        elif magic[:4] == b"FORM":
            end = _end_of_chunk(file, b"SSND", ">")
        elif magic[:4] == b"OggS":
            end = _end_of_last_page(file, size)
        else:
            end = 0
    return max(0, end - size)


def mp3_states_length(path: Path) -> bool:
    """Whether an MP3 has a first frame that counts the others (Xing, Info or VBRI).

    Without it the length in the header is a guess from the bit rate of one frame.
    """
    with path.open("rb") as file:
        head = file.read(10)
        # ID3v2, section 3.1: a size of four times seven bits.
        tag = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        file.seek(10 + tag if head[:3] == b"ID3" else 0)
        first = file.read(_MP3_FRAME_BYTES)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


def _end_of_chunk(file: BinaryIO, wanted: bytes, order: str) -> int:
    """Where the chunk that holds the samples should end; 0 if there is none or nobody knows."""
    long_size = 0
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            return 0
        name, size = header[:4], struct.unpack(f"{order}I", header[4:])[0]
        if name == wanted:
            size = long_size if size == 0xFFFFFFFF and long_size else size
            known = size < UNKNOWN_BYTES or size == long_size
            return file.tell() + size if known else 0
        start = file.tell()
        if name == b"ds64":  # EBU Tech 3306: sizes of 64 bits, that of `data` second
            long_size = struct.unpack("<Q", file.read(16)[8:].ljust(8, b"\0"))[0]
        file.seek(start + size + size % 2)
    return 0


def _end_of_last_page(file: BinaryIO, size: int) -> int:
    start = max(0, size - _OGG_MAX_PAGE_BYTES)
    file.seek(start)
    tail = file.read(_OGG_MAX_PAGE_BYTES)
    page = tail.rfind(b"OggS")
    if page < 0:
        return 0
    header = tail[page : page + _OGG_HEADER_BYTES]
    if len(header) < _OGG_HEADER_BYTES:
        return start + page + _OGG_HEADER_BYTES
    table = tail[page + _OGG_HEADER_BYTES :][: header[26]]
    # A table that is cut itself lacks at least its own rest.
    return start + page + _OGG_HEADER_BYTES + header[26] + sum(table)
