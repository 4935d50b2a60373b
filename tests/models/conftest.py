"""What the tests of the models share: a run that needs no worker, and eSpeak's speech with known word times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from soundmill.models.espeak import Espeak, Manner

from . import speech
from .speech import FakeRun, Speech

Speak = Callable[..., Speech]


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
