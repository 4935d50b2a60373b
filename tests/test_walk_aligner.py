"""Alignment the whole way: command, Redis, Celery, worker, storage and row.

Real speech with known word times goes to `espeak-dtw`. The checkpoint of `mms-300m-aligner` here is tiny and random:
of its alignments only shapes, formats and sentences can be checked.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pysubs2
import pytest
import soundfile
import webvtt
from praatio import textgrid

from soundmill.producer import Producer, Request
from soundmill.storage.errors import SubmitRefused
from soundmill.storage.listing import JobView
from soundmill.storage.settings import Settings

from .walking import environment, serving, settings_in

pytest.importorskip("torch")
pytest.importorskip("numba")

CHECKPOINT = Path(__file__).parent / "data" / "aligner" / "checkpoint"
MMS = "mms-300m-aligner"
TEXT = "The quick brown fox jumps over the lazy dog. It was a fine morning, and nobody had to work."
FORMATS = ["json", "textgrid", "textgrid-short", "srt", "vtt", "ass", "ctm", "tsv", "audacity"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, input_roots=(tmp_path,), max_audio_s=60)


@pytest.fixture
def producer(settings: Settings) -> Iterator[Producer]:
    with Producer(settings) as opened:
        yield opened


@pytest.fixture
def worker(settings: Settings, producer: Producer) -> Iterator[None]:
    """A worker on one card that speaks and aligns."""
    with serving(settings, producer, "espeak-ng", "espeak-dtw", MMS, checkpoint=f"{MMS}={CHECKPOINT}"):
        yield


def files(producer: Producer, job: JobView) -> dict[str, bytes]:
    """The contents of a job's files, by role."""
    found = {}
    for file in producer.artifacts(job.id):
        with producer.open_artifact(job.id, file.name) as stream:
            found[file.role] = stream.read()
    return found


def noise(path: Path, seconds: float, seed: int = 0) -> Path:
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, round(16000 * seconds)), 16000)
    return path


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_speech_is_aligned_and_bad_input_is_refused_in_sentences(
    producer: Producer, worker: None, tmp_path: Path
) -> None:
    audio = {"job": "@speech"}
    few = [
        Request(model=MMS, args={"text": f"short text {word}", "audio": noise(tmp_path / f"{index}.wav", 1 + index / 20, index)})
        for index, word in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight"])
    ]  # fmt: skip
    jobs = producer.submit_graph(
        [
            Request(alias="speech", model="espeak-ng", args={"text": TEXT}),
            Request(model="espeak-dtw", args={"text": TEXT, "audio": audio, "outputs": FORMATS}),
            Request(model=MMS, args={"text": TEXT, "audio": audio, "outputs": [*FORMATS, "png"]}),
            Request(model=MMS, args={"text": TEXT, "audio": audio, "min_score": -0.01}),
            Request(model=MMS, args={"text": TEXT * 20, "audio": audio}),
            Request(model=MMS, args={"text": "2024", "audio": audio}),
            Request(model=MMS, args={"text": "a", "audio": _silence(tmp_path / "silence.wav")}),
            Request(model=MMS, args={"text": "a", "audio": noise(tmp_path / "short.wav", 0.01)}),
            *few,
        ]
    )
    speech, warped, neural, *refused = producer.wait(jobs[:8], timeout_s=150)
    short = producer.wait(jobs[8:], timeout_s=60)

    assert [job.state.value for job in (speech, warped, neural, *short)] == ["completed"] * 11
    _check_real_speech(files(producer, speech), files(producer, warped))
    for job in (warped, neural):
        _check_formats(files(producer, job), tmp_path)
    assert neural.result is not None
    assert (neural.result["licence"], neural.result["words"]) == ("CC-BY-NC-4.0", len(TEXT.split()))
    assert files(producer, neural)["picture"].startswith(b"\x89PNG")
    sentences = [
        "min_score is -0.01", "is the text longer than what is said", "has no letters", "is silent", "too short for the text",
    ]  # fmt: skip
    for job, words in zip(refused, sentences, strict=True):
        assert (job.state.value, job.error_code) == ("discarded", "bad_input")
        assert words in (job.error or "")
    assert max(int((job.metrics or {})["batch_size"]) for job in short) > 1
    _check_plot(producer, neural, tmp_path)


def _check_real_speech(speech: dict[str, bytes], alignment: dict[str, bytes]) -> None:
    """The voice tells when it says each word."""
    said = [word for word in json.loads(speech["words"])["words"] if word["spoken"]]
    found = [word for word in json.loads(alignment["alignment"])["words"] if word["aligned"]]
    assert [word["text"] for word in found] == [word["text"] for word in said]
    errors = np.array([word["start_s"] - true["start_s"] for word, true in zip(found, said, strict=True)])
    assert np.abs(errors).max() < 0.1
    assert np.median(np.abs(errors)) < 0.02


def _check_formats(found: dict[str, bytes], folder: Path) -> None:
    """Each is read by the library that owns it, and has all words."""
    words = json.loads(found["alignment"])["words"]
    texts = [word["text"] for word in words]
    assert texts == TEXT.split()
    assert [(word["char_start"], word["char_end"]) for word in words] == _places(TEXT)
    moments = [moment for word in words for moment in (word["start_s"], word["end_s"])]
    assert moments == sorted(moments)
    for role in ("textgrid", "textgrid-short"):
        assert _labels(found[role], folder) == texts
    for role in ("srt", "ass"):
        events = pysubs2.SSAFile.from_string(found[role].decode(), format_=role).events
        assert " ".join(event.plaintext.replace("\n", " ") for event in events) == TEXT
    captions = webvtt.from_buffer(io.StringIO(found["vtt"].decode())).captions
    assert " ".join(" ".join(caption.lines) for caption in captions) == TEXT
    assert [line.split(" ")[4] for line in found["ctm"].decode().splitlines()] == texts
    assert [line.split("\t")[2] for line in found["tsv"].decode().splitlines()[1:]] == texts
    assert [line.split("\t")[2] for line in found["audacity"].decode().splitlines()] == texts


def _labels(content: bytes, folder: Path) -> list[str]:
    path = folder / "read.TextGrid"
    path.write_bytes(content)
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    return [label for entry in grid.getTier("words").entries for label in entry.label.split(" ")]


def _places(text: str) -> list[tuple[int, int]]:
    places, at = [], 0
    for token in text.split():
        at = text.index(token, at)
        places.append((at, at + len(token)))
        at += len(token)
    return places


def _silence(path: Path) -> Path:
    soundfile.write(path, np.zeros(32_000), 16000)
    return path


def _check_plot(producer: Producer, job: JobView, folder: Path) -> None:
    command = [sys.executable, "-m", "soundmill.producer", "jobs", "show", job.id, "--plot", "--json"]
    done = subprocess.run(
        command, env=environment(producer.settings), cwd=folder, check=True, capture_output=True
    )
    assert json.loads(done.stdout)["saved"] == [f"{job.id}.png"]
    assert (folder / f"{job.id}.png").read_bytes() == files(producer, job)["picture"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"text": ""}, "text: the text is empty"),
        ({"language": "xyz123"}, "there is no language 'xyz123'"),
        ({"audio": "none.wav"}, "holds no samples"),
        ({"audio": "long.wav"}, r"is longer than 60 s \(max_audio_s\); split it"),
    ],
)
def test_bad_input_is_refused_at_submit(
    producer: Producer, tmp_path: Path, args: dict[str, Any], words: str
) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "long.wav", np.zeros(61 * 8000), 8000)
    given = {"text": "a", "audio": noise(tmp_path / "fine.wav", 1), **args}
    if isinstance(given["audio"], str):
        given["audio"] = tmp_path / given["audio"]
    with pytest.raises(SubmitRefused, match=words):
        producer.submit(model=MMS, args=given)
