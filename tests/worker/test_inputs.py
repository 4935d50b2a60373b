"""Input audio on its way to the handler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundmill.storage.blobs import LocalBlobStore
from soundmill.storage.database import Database
from soundmill.worker.inputs import local_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    text: str
    reference: Path | None
    turns: tuple[Any, ...]


def test_audio_inside_lists_arrives_as_paths(sqlite: Database, tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path / "blobs")
    hashes = []
    for content in ("one", "two"):
        (tmp_path / "made").write_text(content)
        hashes.append(blobs.put(tmp_path / "made").sha256)
    turns = (
        {"text": "a", "audio": {"artifact": hashes[0]}},
        {"text": "b", "audio": None},
        {"text": "c", "audio": {"artifact": hashes[1]}},
    )
    args = {"text": "x", "reference": None, "turns": turns}

    with local_inputs(sqlite, blobs, Talk, args, ("reference", "turns.*.audio")) as request:
        first, second, third = request.turns
        assert (first["audio"].read_text(), second["audio"], third["audio"].read_text()) == (
            "one",
            None,
            "two",
        )
        assert (first["text"], request.reference) == ("a", None)
    assert turns[0]["audio"] == {"artifact": hashes[0]}
