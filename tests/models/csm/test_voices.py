"""The memory of codes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from soundmill.models.csm.voices import Voices
from soundmill.models.errors import Cancelled, InputError


def written(folder: Path, content: str, name: str | None = None) -> Path:
    path = folder / (name or content)
    path.write_text(content)
    return path


def codes(frames: int) -> Tensor:
    return torch.zeros((frames, 4), dtype=torch.int16)


def never() -> None:
    raise AssertionError("there is nobody to wait for")


def test_a_recording_is_heard_once_whatever_its_name(tmp_path: Path) -> None:
    voices, heard = Voices(), []

    def hear(path: Path) -> Tensor:
        heard.append(path)
        return codes(5)

    first, known_first = voices.codes(written(tmp_path, "one"), hear, never)
    again, known_again = voices.codes(written(tmp_path, "one", "copy"), hear, never)

    assert len(heard) == 1
    assert (known_first, known_again) == (False, True)
    assert first is again


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    voices, heard = Voices(most_frames=10), []

    def hear(path: Path) -> Tensor:
        heard.append(path.name)
        return codes(4)

    for name in ("a", "b", "a", "c", "a", "b"):
        voices.codes(written(tmp_path, name), hear, never)

    assert heard == ["a", "b", "c", "b"]


def test_two_who_ask_at_once_hear_once(tmp_path: Path) -> None:
    voices, path = Voices(), written(tmp_path, "one")
    begun, go_on = threading.Event(), threading.Event()
    results = []

    def hear(path: Path) -> Tensor:
        begun.set()
        assert go_on.wait(10)
        return codes(3)

    first = threading.Thread(target=lambda: results.append(voices.codes(path, hear, never)))
    first.start()
    assert begun.wait(10)
    second = threading.Thread(
        target=lambda: results.append(voices.codes(path, lambda _: codes(99), go_on.set))
    )
    second.start()
    for thread in (first, second):
        thread.join(10)

    assert sorted((len(found), known) for found, known in results) == [(3, False), (3, True)]


def test_who_waits_can_be_cancelled_and_who_fails_leaves_it_to_the_next(tmp_path: Path) -> None:
    voices, path = Voices(), written(tmp_path, "one")
    begun, go_on = threading.Event(), threading.Event()
    errors = []

    def fail(path: Path) -> Tensor:
        begun.set()
        assert go_on.wait(10)
        raise InputError("no audio")

    def ask() -> None:
        try:
            voices.codes(path, fail, never)
        except InputError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(10)

    def cancel() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        voices.codes(path, lambda _: codes(1), cancel)
    go_on.set()
    thread.join(10)

    assert errors == ["no audio"]
    assert voices.codes(path, lambda _: codes(2), never)[1] is False
