"""MOSS the whole way: command, Redis, Celery, worker, storage and row, with a tiny checkpoint."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundmill.producer import Producer, Request
from soundmill.storage.settings import Settings

from .walking import environment, serving, settings_in

DATA = Path(__file__).parent / "data" / "moss"
MODEL = "moss-tts-nano-100m"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def producer(settings: Settings) -> Iterator[Producer]:
    with Producer(settings) as opened:
        yield opened


@pytest.fixture
def worker(settings: Settings, producer: Producer, tmp_path: Path) -> Iterator[None]:
    """A worker on one card, from a folder that the command `models convert` made loadable."""
    checkpoint = tmp_path / "moss"
    shutil.copytree(DATA / "tts", checkpoint)
    shutil.copytree(DATA / "codec", checkpoint / "MOSS-Audio-Tokenizer-Nano")
    convert = [sys.executable, "-m", "soundmill.producer", "models", "convert", str(checkpoint)]
    subprocess.run(convert, env=environment(settings), check=True, capture_output=True)
    with serving(settings, producer, f"{MODEL}:slots=4", checkpoint=checkpoint):
        yield


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    sound = np.random.default_rng(1).normal(0, 0.1, (6000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "in" / "voice.wav", sound, 8000)
    return tmp_path / "in" / "voice.wav"


@pytest.mark.slow
def test_jobs_share_a_batch_and_come_out_in_stereo_at_48_khz(
    producer: Producer, worker: None, voice: Path
) -> None:
    text = "Hello there, this is a tiny test. The radio played an old song, and nobody spoke! " * 3
    common = {
        "text": text,
        "reference": voice,
        "max_text_tokens": 30,
        "max_new_frames": 30,
        "verbalize": "off",
    }
    formats = ("wav", "flac", "opus")
    jobs = producer.submit_graph(
        [
            *(
                Request(model=MODEL, args=common | {"format": f, "seed": seed})
                for seed, f in enumerate(formats)
            ),
            Request(model=MODEL, args={"text": "🙂 ...", "verbalize": "off"}),
            Request(model=MODEL, args={"text": "Hello.", "voice": "Ava", "verbalize": "off"}),
            Request(model=MODEL, args={"text": "And on.", "verbalize": "off", "max_new_frames": 6}),
        ]
    )
    *spoken, silent, voiceless, last = producer.wait(jobs, timeout_s=90)

    assert [job.state.value for job in (*spoken, last)] == ["completed"] * 4, [job.error for job in spoken]
    for job, wanted in zip(spoken, formats, strict=True):
        [audio] = [file for file in producer.artifacts(job.id) if file.role == "audio"]
        assert audio.name == f"audio.{wanted}"
        with producer.open_artifact(job.id, audio.name) as stream:
            info = soundfile.info(stream)
        assert (info.samplerate, info.channels) == (48000, 2)
        result, metrics = job.result or {}, job.metrics or {}
        assert info.frames / 48000 == pytest.approx(result["audio"]["duration_s"], abs=1e-6)
        assert result["frames"] == sum(chunk["frames"] for chunk in result["chunks"])
        assert metrics["real_time_factor"] > 0
    assert max(int((job.metrics or {})["batch_size"]) for job in spoken) >= 2
    assert (silent.state.value, silent.error_code) == ("discarded", "bad_input")
    assert "nothing to say" in (silent.error or "")
    assert "en_2.wav) is not on this worker" in (voiceless.error or "")
