"""What the tests of the models share: a run that needs no worker, and eSpeak's speech with known word times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr

from soundmill.models.errors import Cancelled
from soundmill.models.espeak import SAMPLE_RATE_HZ as ESPEAK_RATE_HZ
from soundmill.models.espeak import Espeak, Manner
from soundmill.models.words import Mark, split_words, time_words

RATE_HZ = 16000
Sound = npt.NDArray[np.float32]


class FakeRun:
    """A run in a folder of its own, which records what it is told, and cancels at the nth checkpoint."""

    def __init__(self, scratch: Path, cancel_at: int | None = None) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch = scratch
        self.cancel_at = cancel_at
        self.checkpoints = 0
        self.progress: list[float] = []
        self.phases: list[str] = []

    def checkpoint(self, progress: float | None = None) -> None:
        self.checkpoints += 1
        if progress is not None:
            self.progress.append(progress)
        if self.cancel_at is not None and self.checkpoints >= self.cancel_at:
            raise Cancelled

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.phases.append(name)
        yield


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "scratch")


@pytest.fixture(scope="session")
def espeak() -> Iterator[Espeak]:
    library = Espeak()
    yield library
    library.close()


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
        power = float((self.sound**2).mean()) / 10 ** (snr_db / 10)
        noise = np.random.default_rng(0).standard_normal(len(self.sound)) * np.sqrt(power)
        return Speech(sound=(self.sound + noise).astype(np.float32), times=self.times)


Speak = Callable[..., Speech]


@pytest.fixture(scope="session")
def speak(espeak: Espeak) -> Speak:
    """Have eSpeak say a text in a `Manner`."""

    def render(text: str, *, language: str = "en-us", **manner: object) -> Speech:
        pieces, marks, done = [], list[Mark](), 0
        for spoken in espeak.speak(text, Manner(language=language, **manner), lambda _progress: None):  # type: ignore[arg-type]
            marks += (mark.later(done) for mark in spoken.marks)
            pieces.append(spoken.samples)
            done += len(spoken.samples)
        sound = np.concatenate(pieces).astype(np.float32) / 32768
        spans = time_words(split_words(text), marks, done)
        times = [(span.start / ESPEAK_RATE_HZ, span.end / ESPEAK_RATE_HZ) for span in spans if span.spoken]
        return Speech(sound=soxr.resample(sound, ESPEAK_RATE_HZ, RATE_HZ), times=times)

    return render
