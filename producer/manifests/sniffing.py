"""What a file is, by its first lines; and which file of a folder is the manifest."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from soundmill.storage.errors import SubmitRefused

from .columns import KNOWN_NAMES
from .json_lines import BadJsonError, parse_object
from .layout import FEWEST_CELLS, NAMES, OWN, Format, Layout
from .lines import BOM, UTF16, looks_like_utf16

HEAD_BYTES = 256 * 1024
LINES_LOOKED_AT = 20
SEPARATORS = ",\t;|"
IN_FOLDERS = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "manifest.jsonl", "meta.lst")


def find_manifest(path: Path) -> Path:
    """The manifest of a folder; a file is its own.

    Raises:
        SubmitRefused: The folder has none, or several.
    """
    if not path.is_dir():
        return path
    found = [path / name for name in IN_FOLDERS if (path / name).is_file()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise SubmitRefused(f"{path} has none of {', '.join(IN_FOLDERS)}; name the file")
    raise SubmitRefused(f"{path} has {' and '.join(file.name for file in found)}; name the one to submit")


def sniff(path: Path, wanted: Format | None = None) -> Layout:
    """How to read a file.

    Args:
        path: The file.
        wanted: Its format, if somebody said so; only the separator is looked for then.

    Raises:
        SubmitRefused: It cannot be told.
    """
    lines = _first_lines(path)
    if not lines:
        return OWN
    if wanted in (Format.JSONL, Format.NEMO, Format.MOSS):
        return Layout(format=wanted)
    if wanted in NAMES:
        return Layout(format=wanted, separator="|")
    if wanted == Format.TSV:
        return Layout(format=wanted, separator="\t")
    is_json = lines[0].lstrip().startswith(("{", "["))
    if wanted == Format.AUDIOFOLDER:
        return Layout(format=wanted, separator=None if is_json else _separator(lines[0]))
    if wanted == Format.CSV:
        return Layout(format=wanted, separator=_separator(lines[0]))
    return Layout(format=_json_format(lines)) if is_json else _table_layout(path, lines)


def _first_lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).removeprefix(BOM)
    if looks_like_utf16(head):
        raise SubmitRefused(f"{path}: {UTF16}")
    lines = (line for line in head.decode("utf-8", "replace").splitlines() if line.strip())
    return list(islice(lines, LINES_LOOKED_AT))


def _json_format(lines: list[str]) -> Format:
    keys: set[str] = set()
    for line in lines:
        value: dict[str, Any] = {}
        try:
            value = parse_object(line.encode())
        except BadJsonError:
            continue
        keys = set(value)
        break
    if "audio_filepath" in keys:
        return Format.NEMO
    if "file_name" in keys:
        return Format.AUDIOFOLDER
    if keys >= {"name", "role", "text"}:
        return Format.MOSS
    return Format.JSONL


def _table_layout(path: Path, lines: list[str]) -> Layout:
    separator = _separator(lines[0])
    names = {name.strip().strip('"') for name in lines[0].split(separator)}
    if "file_name" in names:
        return Layout(format=Format.AUDIOFOLDER, separator=separator)
    if names & KNOWN_NAMES:
        return Layout(format=Format.TSV if separator == "\t" else Format.CSV, separator=separator)
    cells = lines[0].count("|") + 1
    for bare in (Format.SEED_TTS, Format.LJSPEECH):
        if FEWEST_CELLS[bare] <= cells <= len(NAMES[bare]):
            return Layout(format=bare, separator="|")
    if path.suffix.lower() in (".jsonl", ".json"):
        return OWN
    raise SubmitRefused(
        f"{path} is in no format that is known: it has no JSON objects, no header with a name such as "
        "text or audio, and no lines of the form a|b|c; give it a header, or say --format"
    )


def _separator(header: str) -> str:
    return max(SEPARATORS, key=header.count)
