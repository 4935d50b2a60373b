"""CSM the whole way: command, Redis, Celery, worker, storage and row, with a tiny checkpoint."""

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

CHECKPOINT = Path(__file__).parent / "data" / "csm" / "checkpoint"
GOLDEN = Path(__file__).parent / "data" / "csm" / "csm.npz"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def soundmill(settings: Settings, *words: str) -> Any:
    command = [sys.executable, "-m", "soundmill.producer", *words, "--json"]
    done = subprocess.run(
        command, env=environment(settings), capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def producer(settings: Settings) -> Iterator[Producer]:
    with Producer(settings) as opened:
        yield opened


@pytest.fixture
def worker(settings: Settings, producer: Producer) -> Iterator[None]:
    """A worker on one card whose only model is CSM."""
    with serving(settings, producer, "csm-1b:slots=4", checkpoint=CHECKPOINT):
        yield


def tone(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    times = np.arange(16000) / 16000
    soundfile.write(folder / "voice.wav", (0.3 * np.sin(2 * np.pi * 220 * times)).astype(np.float32), 16000)
    return folder / "voice.wav"


@pytest.mark.slow
def test_one_command_speaks_from_a_folder_of_weights(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "speech.wav"
    answer = soundmill(
        settings, "tts", "Hello, tiny CSM.", "--model", "csm-1b", "--checkpoint-dir", str(CHECKPOINT),
        "--set", "temperature=0", "-o", str(out),
    )  # fmt: skip

    sound, rate = soundfile.read(out, dtype="float32")
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(sound, np.clip(golden["text0_audio_24f"], -1, 1), atol=1e-4)
    assert rate == 24000
    job = answer["job"]
    assert (job["state"], job["kind"], job["model"]) == ("completed", "tts", "csm-1b")
    assert job["result"]["watermark"] is False
    assert job["metrics"]["frames"] == 23
    assert job["metrics"]["dtype"] == "fp32"


@pytest.mark.slow
def test_jobs_share_a_batch_and_a_bad_one_harms_nobody(
    producer: Producer, worker: None, tmp_path: Path
) -> None:
    voice = tone(tmp_path / "in")
    context = [{"speaker": 1, "text": "A voice to go on with.", "audio": voice}]
    long = "Good morning to all of you, and to everybody else who listens today. " * 3
    bad = {"text": "This cannot be.", "context": [context[0] | {"text": "x" * 3000}]}
    jobs = producer.submit_graph(
        [
            *(Request(model="csm-1b", args={"text": long, "seed": seed}) for seed in range(4)),
            Request(alias="first", model="csm-1b", args={"text": long, "speaker": 1, "context": context}),
            Request(
                model="csm-1b",
                args={
                    "text": "And on.",
                    "context": [{"text": long, "speaker": 1, "audio": {"job": "@first"}}],
                },
            ),
            Request(model="csm-1b", args=bad),
        ]
    )
    *good, reply, refused = producer.wait(jobs, timeout_s=90)

    assert [job.state.value for job in (*good, reply)] == ["completed"] * 6, [job.error for job in good]
    metrics = [job.metrics or {} for job in good]
    assert sum(float(found["batch_size"]) >= 2 for found in metrics) >= 2
    assert [job.args["context"][0]["audio"] for job in (reply,)] == [{"job": good[-1].id}]
    assert (reply.metrics or {})["context_turns"] == 1
    assert all(found["audio_s"] > 0 and found["real_time_factor"] > 0 for found in metrics)
    assert (refused.state.value, refused.error_code) == ("discarded", "bad_input")
    assert "context.0.audio: the turn takes" in (refused.error or "")
    [audio] = [file for file in producer.artifacts(good[0].id) if file.role == "audio"]
    with producer.open_artifact(good[0].id, audio.name) as stream:
        assert soundfile.info(stream).samplerate == 24000
