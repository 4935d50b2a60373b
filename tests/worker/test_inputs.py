"""Input audio on its way to the handler."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.storage import examiner as examiner_module
from soundmill.storage.blobs import LocalBlobStore
from soundmill.storage.database import Database
from soundmill.storage.examiner import Examiner
from soundmill.storage.lifecycle import State
from soundmill.storage.listing import get_job
from soundmill.storage.sound import Sound
from soundmill.worker.executor import Ending
from soundmill.worker.inputs import SoundCheck, local_inputs

from .bench import Bench, bench_on, write

FRAGILE = """
import ctypes
from soundmill.storage import sound_examiner
whole = sound_examiner.examine

def fragile(path, max_audio_s):
    if path.read_bytes() == b"poison":
        ctypes.string_at(0)
    return whole(path, max_audio_s)

sound_examiner.examine = fragile
sound_examiner.main()
"""


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Examiner]:
    """An examiner whose decoder crashes on some files."""
    monkeypatch.setattr(examiner_module, "_COMMAND", (sys.executable, "-P", "-c", FRAGILE))
    found = Examiner(60)
    yield found
    found.close()


def stored(bench: Bench, content: bytes) -> dict[str, str]:
    """The argument that names a blob, which no producer has looked at."""
    (bench.blobs.root / "made").write_bytes(content)
    return {"artifact": bench.blobs.put(bench.blobs.root / "made").sha256}


def tone(seconds: float = 0.5, kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(round(16_000 * seconds), 0.1), 16_000, format=kind)
    return buffer.getvalue()


def test_audio_that_crashes_the_decoder_fails_its_own_job(
    sqlite: Database, tmp_path: Path, fragile: Examiner
) -> None:
    with bench_on(sqlite, tmp_path) as bench:
        bench.executor._sounds = SoundCheck(fragile)
        jobs = {
            name: bench.submit(args={"text": name, "audio": stored(bench, content)})
            for name, content in (
                ("poison", b"poison"), ("bomb", tone(61, "FLAC")), ("noise", b"\x00" * 100), ("good", tone()),
            )
        }  # fmt: skip
        endings = {name: bench.executor.execute(job_id).ending for name, job_id in jobs.items()}
        assert endings.pop("good") == Ending.COMPLETED
        assert set(endings.values()) == {Ending.DISCARDED}
        assert [request.text for request in bench.puppet.requests] == ["good"], "no handler saw the others"
        with sqlite.read() as connection:
            rows = {name: get_job(connection, job_id) for name, job_id in jobs.items()}
    assert {row.error_code for name, row in rows.items() if name != "good"} == {"bad_input"}
    assert rows["poison"].error == "audio: the audio crashes the decoder; encode it again"
    assert "longer than 60 s (max_audio_s)" in (rows["bomb"].error or "")


def test_a_process_that_is_killed_from_outside_costs_the_job_nothing(
    sqlite: Database, tmp_path: Path, fragile: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examiner_module, "_COMMAND", (sys.executable, "-P", "-c", FRAGILE.replace(
        "ctypes.string_at(0)", "__import__('os').kill(__import__('os').getpid(), 9)"
    )))  # fmt: skip
    with bench_on(sqlite, tmp_path) as bench:
        bench.executor._sounds = SoundCheck(fragile)
        job_id = bench.submit(args={"audio": stored(bench, b"poison")})
        assert bench.executor.execute(job_id).ending == Ending.RETRYABLE
        with sqlite.read() as connection:
            job = get_job(connection, job_id)
    assert (job.state, job.error_code, job.failures) == (State.RETRYABLE, "storage_unavailable", 0)


def test_audio_is_looked_at_once_and_that_of_other_jobs_not_at_all(
    sqlite: Database, tmp_path: Path, fragile: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    examine = fragile.examine

    def watched(path: Path, checkpoint: Callable[[], None]) -> Sound:
        looked.append(path)
        return examine(path, checkpoint)

    monkeypatch.setattr(fragile, "examine", watched)
    with bench_on(sqlite, tmp_path, write()) as bench:
        bench.executor._sounds = SoundCheck(fragile)
        audio = stored(bench, tone())
        for _ in range(3):
            assert bench.executor.execute(bench.submit(args={"audio": audio})).ending == Ending.COMPLETED
        parent = bench.submit()
        bench.executor.execute(parent)
        child = bench.submit(args={"audio": {"job": parent}})
        assert bench.executor.execute(child).ending == Ending.COMPLETED, "what it read is no audio at all"
    assert len(looked) == 1


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
