"""Ming the whole way: producer, Redis, Celery, worker, storage and row, with a tiny checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.producer import Producer, Request
from soundmill.storage.errors import SubmitRefused
from soundmill.storage.settings import Settings

from .walking import serving, settings_in

MODEL = "ming-omni-tts-0.5b"
CHECKPOINT = Path(__file__).parent / "data" / "ming" / "checkpoint"
PARTS_AT_ONCE = 4  # of one job


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def producer(settings: Settings) -> Iterator[Producer]:
    with Producer(settings) as opened:
        yield opened


@pytest.fixture
def worker(settings: Settings, producer: Producer) -> Iterator[None]:
    """A worker on one card whose only model is Ming."""
    with serving(settings, producer, f"{MODEL}:slots=20,context=640", checkpoint=CHECKPOINT):
        yield


def recording(path: Path, pitch_hz: float, rate: int = 16000) -> Path:
    path.parent.mkdir(exist_ok=True)
    times = np.arange(rate) / rate
    soundfile.write(path, (0.3 * np.sin(2 * np.pi * pitch_hz * times)).astype(np.float32), rate)
    return path


def asked(task: str, **args: Any) -> Request:
    given = {"task": task, "chunk_s": 5, "max_steps": 20, "sample_rate": 8000, "seed": 3}
    return Request(model=MODEL, args=given | args)


@pytest.mark.slow
def test_many_tasks_share_a_batch_and_a_bad_one_harms_nobody(
    producer: Producer, worker: None, tmp_path: Path
) -> None:
    voice, other = recording(tmp_path / "in" / "a.wav", 180), recording(tmp_path / "in" / "b.wav", 240)
    long = "今天天气很好，我们去公园吧。" * 20
    music = {"genre": "迪斯科", "mood": "快乐", "instrument": "架子鼓", "theme": "生日"}
    spoken = {"text": long, "speaker_audio": voice}
    wanted = [
        asked("tts", text=long),
        asked("clone", text=long, prompt_audio=voice, prompt_text="在此奉劝大家。"),
        asked("emotion", **spoken, instruction={"emotion": "wistful"}),
        asked("design", text=long, instruction={"style": "温柔的女声"}),
        asked("voice", text=long, instruction={"voice": "灵小甄"}),
        asked("speech_with_music", **spoken, instruction={"background": {"ambience": "Birds chirping"}}),
        asked("sound", text="Thunder and a gentle rain"),
        asked("music", music=music, max_steps=20),
        asked(
            "podcast",
            text="speaker_1: 你好\nspeaker_2: 嗯。",
            speakers=[{"audio": voice, "text": "对啊"}, {"audio": other, "text": "是的"}],
        ),
        asked("speaker", text="你好。", speaker_audio=recording(tmp_path / "in" / "slow.wav", 50, 4000)),
    ]
    *good, refused = producer.wait(producer.submit_graph(wanted), timeout_s=100)

    assert [job.state.value for job in good] == ["completed"] * 9, [job.error for job in good]
    metrics = [job.metrics or {} for job in good]
    # A job has so many rows at most, so that more of them are rows of five jobs at least.
    assert max(int(found["batch_size"]) for found in metrics) > 4 * PARTS_AT_ONCE
    assert all(found["audio_s"] > 0 and found["steps"] >= 5 for found in metrics)
    [doubt] = [text for text in (good[2].result or {})["warnings"] if text.startswith("instruction.")]
    assert "'wistful' is on no list of known values" in doubt
    assert (refused.state.value, refused.error_code) == ("discarded", "bad_input")
    assert "speaker_audio: it is sampled at 4000 Hz" in (refused.error or "")
    [audio] = [file for file in producer.artifacts(good[8].id) if file.role == "audio"]
    with producer.open_artifact(good[8].id, audio.name) as stream:
        assert soundfile.info(stream).samplerate == 8000


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"task": "sing", "text": "a"}, "'tts', 'clone', 'speaker', 'emotion'"),
        ({"task": "clone", "text": "a", "prompt_text": "b"}, "prompt_audio is missing"),
        ({"task": "podcast", "text": "speaker_1: a", "speakers": []}, "speakers is missing"),
        ({"text": "a", "instruction": {"emotional": "sad"}}, "did you mean 'emotion'?"),
    ],
)
def test_what_cannot_succeed_is_refused_at_submit(
    producer: Producer, args: dict[str, Any], words: str
) -> None:
    with pytest.raises(SubmitRefused, match=words.replace("?", r"\?")):
        producer.submit(Request(model=MODEL, args=args))
