"""What the tests of the models share: a run that needs no worker, and eSpeak's speech with known word times."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from soundmill.models.espeak import Espeak, Manner

from . import speech
from .speech import FakeRun, Speech

Speak = Callable[..., Speech]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models are several times slower with two threads, and those of two tests fight for a processor."""
    if torch := sys.modules.get("torch"):  # imported with the tests that need it
        torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "scratch")


@pytest.fixture(scope="session")
def espeak() -> Iterator[Espeak]:
    library = Espeak()
    yield library
    library.close()


@pytest.fixture(scope="session")
def speak(espeak: Espeak) -> Speak:
    """Have eSpeak say a text in a `Manner`."""

    def render(text: str, *, language: str = "en-us", **manner: Any) -> Speech:
        return speech.speak(espeak, text, Manner(language=language, **manner))

    return render
