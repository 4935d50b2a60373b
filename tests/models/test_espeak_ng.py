from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.models.audio import MEDIA_TYPES
from soundmill.models.errors import Cancelled, InputError, ModelUnavailable
from soundmill.models.espeak_ng import EspeakNg, Request
from soundmill.models.station import Station
from soundmill.models.words import speakable
from soundmill.storage.arguments.espeak import EspeakArguments

from .speech import FakeRun


@pytest.fixture(scope="module")
def handler() -> Iterator[EspeakNg]:
    model = EspeakNg()
    model.load(Station("cpu:0").place())
    yield model
    model.close()


def request(text: str, **changes: Any) -> Request:
    fields = {
        "language": "en-us",
        "voice": None,
        "speed": 1.0,
        "pitch": 50,
        "sample_rate": 22050,
        "format": "wav",
        "word_times": True,
    }
    return Request(text=text, **{**fields, **changes})


def words_of(run: FakeRun) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run.scratch / "words.json").read_text("utf-8"))
    return document


def test_the_request_has_the_fields_of_the_arguments() -> None:
    assert {field.name for field in fields(Request)} == set(EspeakArguments.model_fields)


@pytest.mark.parametrize(
    ("format", "rate"), [("wav", 22050), ("wav", 48000), ("flac", 24000), ("mp3", 44100), ("opus", 16000)]
)
def test_it_writes_speech_of_the_stated_length(
    handler: EspeakNg, run: FakeRun, format: str, rate: int
) -> None:
    output = handler.perform(request("Hello world.", format=format, sample_rate=rate), run)
    audio, words = output.files
    assert (audio.name, audio.role, audio.media_type) == (f"audio.{format}", "audio", MEDIA_TYPES[format])
    assert (words.name, words.role) == ("words.json", "words")
    sound, sound_rate = soundfile.read(audio.path)
    assert sound_rate == rate
    assert output.result["audio"] == {
        "name": f"audio.{format}",
        "duration_s": len(sound) / rate,
        "sample_rate": rate,
        "channels": 1,
    }
    assert 0.5 < len(sound) / rate < 2
    assert np.abs(sound).max() > 0.1
    assert output.metrics == {"audio_s": len(sound) / rate, "characters": 12}
    assert run.phases == ["generation", "write"]
    assert run.progress[-1] == 1.0


def test_word_times_can_be_left_out(handler: EspeakNg, run: FakeRun) -> None:
    output = handler.perform(request("Hello world.", word_times=False), run)
    assert [file.role for file in output.files] == ["audio"]
    assert output.result["words"] == 2


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ('Hello (world), of the 10 — o\'clock "1990" & 😀 end. ... Next', "en-us"),
        ("  leading\n\nand trailing  ", "en-us"),
        ("你好世界。今天 hello 天气很好", "cmn"),
        ("「こんにちは世界」カッコー", "ja"),
        ("مرحبا بالعالم كيف حالك", "ar"),
        ("สวัสดีครับ ชาวโลก", "th"),
        ("\ud800 broken \x01 text \ufffd", "en-us"),
    ],
)
def test_every_token_has_a_place_in_the_audio(
    handler: EspeakNg, run: FakeRun, text: str, language: str
) -> None:
    result = handler.perform(request(text, language=language, sample_rate=8000), run).result
    document = words_of(run)
    words, text = document["words"], speakable(text)
    assert result["words"] == len(words) >= len(text.split())
    assert "".join(word["text"] for word in words) == "".join(text.split())
    assert all(text[word["char_start"] : word["char_end"]] == word["text"] for word in words)
    edges = [edge for word in words for edge in (word["start_s"], word["end_s"])]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= document["duration_s"]
    assert any(word["spoken"] for word in words)


def test_a_word_is_heard_where_its_time_says(handler: EspeakNg, run: FakeRun) -> None:
    handler.perform(request("Hello, world."), run)
    hello, world = words_of(run)["words"]
    sound, rate = soundfile.read(run.scratch / "audio.wav")

    def rms(start_s: float, end_s: float) -> float:
        return float(np.sqrt((sound[int(start_s * rate) : int(end_s * rate)] ** 2).mean()))

    pause = rms(hello["end_s"] + 0.02, world["start_s"] - 0.02)
    assert rms(hello["start_s"], hello["end_s"]) > 30 * pause
    assert rms(world["start_s"], world["end_s"]) > 30 * pause


@pytest.mark.parametrize("text", ["...", "?!", "—", "\x01\x02", "--"])
def test_a_text_with_nothing_to_say_is_refused(handler: EspeakNg, run: FakeRun, text: str) -> None:
    with pytest.raises(InputError, match="nothing to say"):
        handler.perform(request(text), run)


def test_an_unloaded_model_is_unavailable(run: FakeRun) -> None:
    with pytest.raises(ModelUnavailable):
        EspeakNg().perform(request("Hello"), run)


def test_a_cancelled_job_stops_within_a_step(handler: EspeakNg, tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "scratch", cancel_at=4)
    with pytest.raises(Cancelled):
        handler.perform(request("A sentence of some words. " * 400), run)
    assert run.checkpoints == 4


def test_threads_get_the_same_audio_as_one_after_the_other(handler: EspeakNg, tmp_path: Path) -> None:
    requests = [
        request(f"This is speaker number {index}. " * (index + 1), voice=voice, language=language)
        for index, (voice, language) in enumerate(
            [(None, "en-us"), ("f3", "en-us"), ("whisper", "en-gb"), (None, "de")] * 2
        )
    ]

    def perform(index: int, folder: str) -> None:
        handler.perform(requests[index], FakeRun(tmp_path / folder / str(index)))

    for index in range(8):
        perform(index, "alone")
    threads = [threading.Thread(target=perform, args=(index, "together")) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(8):
        for name in ("audio.wav", "words.json"):
            alone, together = (tmp_path / folder / str(index) / name for folder in ("alone", "together"))
            assert alone.read_bytes() == together.read_bytes()


def test_a_short_job_does_not_wait_for_a_long_one(handler: EspeakNg, tmp_path: Path) -> None:
    long_run, finished = FakeRun(tmp_path / "long"), threading.Event()

    def speak_long() -> None:
        handler.perform(request("A sentence of some words. " * 600), long_run)
        finished.set()

    thread = threading.Thread(target=speak_long)
    thread.start()
    handler.perform(request("Short."), FakeRun(tmp_path / "short"))
    assert not finished.is_set()
    thread.join()


def test_a_huge_text_is_spoken_in_bounded_memory(handler: EspeakNg, run: FakeRun) -> None:
    import tracemalloc

    text = "The quick brown fox jumps over the lazy dog, and it is true. " * 1600
    tracemalloc.start()
    output = handler.perform(request(text, speed=2.5, sample_rate=8000, word_times=False), run)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert output.result["audio"]["duration_s"] > 2000
    assert peak < 30e6  # the samples of the whole would be twice that, in 8 kHz and 16 bits alone
