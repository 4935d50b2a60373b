"""Captions the whole way: clips, Redis, Celery, worker, storage, row and export, with a tiny checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.producer import Producer, Request
from soundmill.storage.settings import Settings

from .walking import environment, serving, settings_in

CHECKPOINT = Path(__file__).parent / "data" / "captioner"
MODEL = "acestep-captioner"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def producer(settings: Settings) -> Iterator[Producer]:
    with Producer(settings) as opened:
        yield opened


@pytest.fixture
def worker(settings: Settings, producer: Producer) -> Iterator[None]:
    with serving(settings, producer, f"{MODEL}:slots=4", checkpoint=CHECKPOINT):
        yield


def clips(folder: Path) -> dict[str, tuple[Path, str, dict[str, Any]]]:
    """The golden clips: where they are, how to ask, and what is known of them."""
    folder.mkdir()
    arrays = np.load(CHECKPOINT / "golden.npz")
    found = {}
    for case in json.loads((CHECKPOINT / "golden.json").read_text(encoding="utf-8"))["cases"]:
        path = folder / f"{case['case']}.wav"
        soundfile.write(path, arrays[f"{case['case']}_wav_int16"], 16000, subtype="PCM_16")
        task = "transcribe" if "Transcribe" in case["prompt"] else "describe"
        found[case["case"]] = (path, task, case)
    return found


@pytest.mark.slow
def test_clips_of_many_jobs_are_captioned_together_and_exported(
    producer: Producer, settings: Settings, worker: None, tmp_path: Path
) -> None:
    golden = clips(tmp_path / "in")
    long = tmp_path / "in" / "long.flac"
    soundfile.write(long, 0.1 * np.random.default_rng(0).standard_normal((70 * 44100, 2)), 44100)
    asked = {
        name: {"audio": path, "task": task, "max_new_tokens": 64} for name, (path, task, _) in golden.items()
    }
    asked |= {f"{name} again": args for name, args in asked.items()}
    asked["long"] = {"audio": long, "window_s": 20, "max_new_tokens": 8}
    asked["beyond"] = {"audio": long, "prompt": "x" * 8000, "max_new_tokens": 1024}
    requests = [
        Request(model=MODEL, kind="caption", args=args, batch="clips", custom_id=name)
        for name, args in asked.items()
    ]
    ids = [item.job.id for item in producer.submit_many(requests) if item.job is not None]
    done = {job.custom_id: job for job in map(producer.get, ids)}
    producer.wait(ids, timeout_s=90)
    done = {job.custom_id: job for job in map(producer.get, ids)}

    for name, (_, _, case) in golden.items():
        for job in (done[name], done[f"{name} again"]):
            assert job.state.value == "completed", job.error
            assert (job.result or {})["caption"] == case["text"]
            assert (job.metrics or {})["audio_s"] == pytest.approx(case["seconds"], abs=0.001)
            with producer.open_artifact(job.id, "caption.txt") as file:
                assert file.read().decode() == case["text"] + "\n"
    assert max((job.metrics or {}).get("batch_size", 0) for job in done.values()) >= 2
    windows = (done["long"].result or {})["windows"]
    assert [round(window["end_s"]) for window in windows] == [16, 34, 52, 70]
    beyond = done["beyond"]
    assert (beyond.state.value, beyond.error_code) == ("discarded", "bad_input")
    assert "shorten the prompt" in str(beyond.error)
    _check_export(settings, tmp_path / "out", golden)


def _check_export(settings: Settings, out: Path, golden: dict[str, tuple[Path, str, dict[str, Any]]]) -> None:
    command = [sys.executable, "-m", "soundmill.producer", "batch", "export", "clips", str(out)]
    command += ["--format", "acestep", "--json"]
    exported = subprocess.run(
        command, env=environment(settings), capture_output=True, timeout=60, check=False
    )
    assert exported.returncode == 3, exported.stderr  # one job failed
    samples = {one["filename"]: one for one in json.loads((out / "dataset.json").read_text())["samples"]}

    assert samples.keys() == {"a0.wav", "a1.wav", "a2.wav", "a3.wav", "long.flac"}
    assert samples["a0.wav"]["caption"] == golden["a0"][2]["text"]
    assert samples["a2.wav"]["lyrics"] == golden["a2"][2]["text"]
    assert (out / "0000" / "a2.txt").read_text() == golden["a2"][2]["text"] + "\n"
    assert soundfile.info(samples["long.flac"]["audio_path"]).channels == 2
