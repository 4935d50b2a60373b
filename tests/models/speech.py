"""Speech whose word times are known, for tests and for `benchmarks/alignment.py`."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from soundmill.models.errors import Cancelled
from soundmill.models.espeak import SAMPLE_RATE_HZ as ESPEAK_RATE_HZ
from soundmill.models.espeak import Espeak, Manner
from soundmill.models.espeak_dtw import EspeakDtw, Request
from soundmill.models.handler import Counts, Output
from soundmill.models.words import Mark, split_words, time_words

RATE_HZ = 16000
DATA = Path(__file__).resolve().parent.parent / "data"
Sound = npt.NDArray[np.float32]


class FakeRun:
    """A run in a folder of its own, which records what it is told, and cancels at the nth checkpoint."""

    def __init__(self, scratch: Path, cancel_at: int | None = None) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch = scratch
        self.cancel_at = cancel_at
        self.checkpoints = 0
        self.progress: list[float] = []
        self.made: list[Counts] = []
        self.phases: list[str] = []

    def checkpoint(self, progress: float | None = None, made: Counts | None = None) -> None:
        self.checkpoints += 1
        if progress is not None:
            self.progress.append(progress)
        if made is not None:
            self.made.append(made)
        if self.cancel_at is not None and self.checkpoints >= self.cancel_at:
            raise Cancelled

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.phases.append(name)
        yield


def at_once(perform: Callable[[int], Output], count: int) -> list[Output]:
    """What `perform` makes of 0 … count − 1, each in a thread of its own, in their order."""
    outputs: dict[int, Output] = {}

    def run(number: int) -> None:
        outputs[number] = perform(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outputs[number] for number in range(count)]


def expect_same_speech(found: Sequence[Output], expected: Sequence[Output]) -> None:
    """The same results, and the same sound in their first files."""
    for one, other in zip(found, expected, strict=True):
        assert one.result == other.result
        heard, meant = (soundfile.read(said.files[0].path, dtype="float32")[0] for said in (one, other))
        np.testing.assert_allclose(heard, meant, atol=1e-4)


@dataclass(frozen=True, kw_only=True)
class Speech:
    """Mono speech at `RATE_HZ`, and (start_s, end_s) of each word that is spoken."""

    sound: Sound
    times: list[tuple[float, float]]

    def save(self, path: Path) -> Path:
        soundfile.write(path, self.sound, RATE_HZ)
        return path

    def with_pauses(self, *, lead_s: float, pause_s: float, every: int) -> Speech:
        """Silence before the first word, and before every nth word."""
        parts = [np.zeros(round(lead_s * RATE_HZ), np.float32)]
        shift, cut, times = lead_s, 0, []
        for index, (start_s, end_s) in enumerate(self.times):
            if index and index % every == 0:
                at = round(start_s * RATE_HZ)
                parts += [self.sound[cut:at], np.zeros(round(pause_s * RATE_HZ), np.float32)]
                cut, shift = at, shift + pause_s
            times.append((start_s + shift, end_s + shift))
        return Speech(sound=np.concatenate([*parts, self.sound[cut:]]), times=times)

    def with_noise(self, snr_db: float) -> Speech:
        """White noise, so far below what sounds; digital silence does not count as sound."""
        power = float((self.sound[self.sound != 0] ** 2).mean()) / 10 ** (snr_db / 10)
        noise = np.random.default_rng(0).standard_normal(len(self.sound)) * np.sqrt(power)
        return Speech(sound=(self.sound + noise).astype(np.float32), times=self.times)

    def led_in(self) -> Speech:
        """With 2 s of silence before it."""
        return self.with_pauses(lead_s=2.0, pause_s=0, every=len(self.times) + 1)

    def roughened(self) -> Speech:
        """With 2 s of silence before it, pauses of 0.8 s, and noise 15 dB below."""
        return self.with_pauses(lead_s=2.0, pause_s=0.8, every=4).with_noise(15)


def speak(espeak: Espeak, text: str, manner: Manner) -> Speech:
    """Have eSpeak say a text; the times are its own word events."""
    pieces, marks, done = [], list[Mark](), 0
    for spoken in espeak.speak(text, manner, lambda _progress: None):
        marks += (mark.later(done) for mark in spoken.marks)
        pieces.append(spoken.samples)
        done += len(spoken.samples)
    sound = np.concatenate(pieces).astype(np.float32) / 32768
    spans = time_words(split_words(text), marks, done)
    times = [(span.start / ESPEAK_RATE_HZ, span.end / ESPEAK_RATE_HZ) for span in spans if span.spoken]
    return Speech(sound=soxr.resample(sound, ESPEAK_RATE_HZ, RATE_HZ), times=times)


def start_errors_s(handler: EspeakDtw, speech: Speech, text: str, language: str, folder: Path) -> list[float]:
    """Align the speech in `folder`, which is made; how much too late (or early: negative) each word starts."""
    run = FakeRun(folder)
    request = Request(
        text=text, language=language, audio=speech.save(folder / "speech.wav"), outputs=("json",)
    )
    handler.perform(request, run)
    words = json.loads((folder / "alignment.json").read_text("utf-8"))["words"]
    found = [word["start_s"] for word in words if word["aligned"]]
    return [start_s - true_s for start_s, (true_s, _) in zip(found, speech.times, strict=True)]


def sentences(language: str, count: int) -> list[str]:
    """Some sentences of the corpus, the same every time, none longer than two lines of a page."""
    lines = map(json.loads, (DATA / "corpus" / "sentences.jsonl").read_text("utf-8").splitlines())
    texts = [line["text"] for line in lines if line["language"] == language and len(line["text"]) <= 160]
    return random.Random(0).sample(texts, count)


def unspaced_sentences(language: str) -> list[str]:
    """Sentences in a language without spaces, where each character is a word: `cmn` or `ja`."""
    return (DATA / "alignment" / f"{language}.txt").read_text("utf-8").splitlines()


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording among the tests' data; what the starts go by, its README says."""

    name: str
    speaker: str
    text: str
    speech: Speech


def recordings() -> list[Recording]:
    folder = DATA / "recordings"
    return [
        Recording(
            name=entry["file"].partition(".")[0],
            speaker=entry["speaker"],
            text=entry["text"],
            speech=Speech(
                sound=soundfile.read(folder / entry["file"], dtype="float32")[0],
                times=[(start_s, math.nan) for start_s in entry["starts_s"]],
            ),
        )
        for entry in json.loads((folder / "recordings.json").read_text("utf-8"))
    ]
