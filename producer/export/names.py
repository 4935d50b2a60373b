"""File names made of what submitters chose, safe on every file system that people copy data to.

A custom id may hold a path, what Windows refuses, what a terminal obeys, or a thousand letters. What
is left of it is unique among the jobs of one folder, also where case does not count. Letters of any
script stay as they are.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soundmill.storage.listing import ArtifactView, JobView

LONGEST_STEM_BYTES = 120
"""With an extension and a mark far below the 255 bytes of most file systems, and eCryptfs's 143."""

_FORBIDDEN = frozenset('<>:"/\\|?*')
_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"}
)
# A name in a table would be computed by a spreadsheet, and `-rf` be obeyed by a command.
_SIGNS = ("=", "+", "-", "@", "~", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_OWN_EXTENSION = re.compile(r"\.(wav|flac|mp3|opus|ogg|aiff?|json|txt|textgrid)$", re.IGNORECASE)
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,10}")
_EXTENSIONS = {
    "audio/wav": ".wav", "audio/flac": ".flac", "audio/mpeg": ".mp3", "audio/ogg": ".ogg",
    "audio/aiff": ".aiff", "audio/opus": ".opus", "application/json": ".json", "text/plain": ".txt",
}  # fmt: skip


def safe_stem(text: str) -> str:
    """A file name without extension; empty if nothing of the text can be kept."""
    name = unicodedata.normalize("NFC", text)
    name = "".join("_" if _is_bad(letter) else letter for letter in name)
    name = _OWN_EXTENSION.sub("", name).strip(" ").rstrip(". ")
    if name.startswith("."):
        name = "_" + name[1:]
    if name.startswith(_SIGNS):
        name = f"_{name}"
    if not name.strip("_"):
        return ""
    if name.split(".")[0].rstrip().upper() in _RESERVED:
        name = f"_{name}"
    return _shortened(name)


def stems(jobs: Iterable[JobView], taken: set[str] | None = None) -> dict[str, str]:
    """The stems of the jobs of one folder, by id of the job: of its custom id, else of its own.

    They depend on the jobs and their order only, not on their states: the same export later, when
    more jobs are complete, gives the same names.

    Args:
        taken: What the jobs of earlier folders are called, folded, where names must differ from theirs;
            the new ones join it.
    """
    found: dict[str, str] = {}
    taken = set() if taken is None else taken
    for job in jobs:
        stem = base = safe_stem(job.custom_id or "") or job.id
        # The end of a job's id is its random part.
        for length in range(6, len(job.id) + 1, 4):
            if folded(stem) not in taken:
                break
            stem = f"{base}~{job.id[-length:].lower()}"
        taken.add(folded(stem))
        found[job.id] = stem
    return found


def file_names(stem: str, files: Iterable[ArtifactView]) -> list[tuple[ArtifactView, str]]:
    """A name for each file of a job: `<stem>.<ext>`, and `<stem>~<name>.<ext>` where that is taken."""
    found: list[tuple[ArtifactView, str]] = []
    taken: set[str] = set()
    for file in files:
        extension = _extension(file)
        name = stem + extension
        if folded(name) in taken:
            name = f"{stem}~{safe_stem(PurePosixPath(file.name).name) or len(taken)}{extension}"
        taken.add(folded(name))
        found.append((file, name))
    return found


def folded(name: str) -> str:
    """What two names have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", name.casefold())


def _extension(file: ArtifactView) -> str:
    suffix = PurePosixPath(file.name).suffix
    return suffix if _EXTENSION.fullmatch(suffix) else _EXTENSIONS.get(file.media_type, ".bin")


def _is_bad(letter: str) -> bool:
    # Cc, Cf (also what turns the direction of writing around), surrogates; line and paragraph ends
    return letter in _FORBIDDEN or unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _shortened(name: str) -> str:
    raw = name.encode()
    if len(raw) <= LONGEST_STEM_BYTES:
        return name
    mark = f"~{hashlib.sha256(raw).hexdigest()[:8]}"
    return raw[: LONGEST_STEM_BYTES - len(mark)].decode(errors="ignore").rstrip(". ") + mark
