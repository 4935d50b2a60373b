"""What is refused at submit: the field, and a sentence that says what to do. Nothing is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.producer import Producer, Request
from soundmill.storage.errors import InputRefused, SettingsError, SubmitRefused, UnknownModel

from .playing import rows_of

TEXT = {"text": "Good morning."}


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        ({"model": "espeak", "args": TEXT}, "model", "did you mean 'espeak-ng'"),
        ({"model": "espeak-ng", "kind": "align", "args": TEXT}, "model", "does tts jobs, not align"),
        ({"model": "espeak-ng", "args": TEXT | {"speeed": 2}}, "speeed", "did you mean 'speed'"),
        ({"model": "espeak-ng", "args": TEXT | {"speed": 9}}, "speed", "less than or equal to 2.5"),
        ({"model": "espeak-ng", "args": TEXT | {"speed": float("nan")}}, "speed", "finite number"),
        ({"model": "espeak-ng", "args": TEXT | {"voice": "f9999"}}, "voice", "has no voice 'f9999'"),
        ({"model": "espeak-ng", "args": TEXT | {"language": "xx"}}, "language", "has no language 'xx'"),
        ({"model": "espeak-ng", "args": {}}, "text", "needs this argument"),
        ({"model": "espeak-ng", "args": {"text": ""}}, "text", "the text is empty"),
        ({"model": "espeak-ng", "args": {"text": " \n\t"}}, "text", "the text is empty"),
        ({"model": "espeak-ng", "args": {"text": "x" * 1_000_000}}, "text", "at most 100000"),
        ({"model": "espeak-ng", "args": {"text": "a\x00b"}}, "text", "NUL"),
        ({"model": "espeak-ng", "args": {"text": "a\ud800"}}, "text", "unicode"),
        ({"model": "espeak-ng", "args": TEXT, "priority": 10}, "priority", "from 0 to 9"),
        ({"model": "espeak-ng", "args": TEXT, "priority": True}, "priority", "from 0 to 9"),
        ({"model": "espeak-ng", "args": TEXT, "timeout_s": 10**9}, "timeout_s", "max_deadline_s"),
        (
            {"model": "espeak-ng", "args": TEXT, "timeout_s": 5, "delay_s": 9},
            "timeout_s",
            "before it may start",
        ),
        ({"model": "espeak-ng", "args": TEXT, "delay_s": float("nan")}, "delay_s", "seconds"),
        ({"model": "espeak-ng", "args": TEXT, "max_failures": 0}, "max_failures", "at least 1"),
        ({"model": "espeak-ng", "args": TEXT, "custom_id": "a\x00"}, "custom_id", "cannot be stored"),
        ({"model": "espeak-ng", "args": TEXT, "custom_id": "\ud800"}, "custom_id", "cannot be stored"),
        ({"model": "espeak-ng", "args": TEXT, "batch": "b" * 191}, "batch", "at most 190"),
        ({"model": "espeak-ng", "args": TEXT, "idempotency_key": ""}, "idempotency_key", "is empty"),
        ({"model": 7, "args": TEXT}, "model", "give a text"),
        ({"model": "espeak-ng", "args": "text"}, "args", "mapping"),
        ({"model": "acoustic", "args": {}}, "audio", "needs this argument"),
        ({"model": "acoustic", "args": {"audio": 7}}, "audio", "give the audio as"),
        ({"model": "acoustic", "args": {"audio": {"uri": "x"}}}, "audio", "give the audio as"),
        (
            {"model": "acoustic", "args": {"audio": {"url": "https://a.example.org/x.wav"}}},
            "audio",
            "url_hosts",
        ),
        ({"model": "acoustic", "args": {"audio": {"url": 7}}}, "audio.url", "give a text"),
        (
            {"model": "acoustic", "args": {"audio": "https://a.example.org/x.wav"}},
            "audio",
            "that is an address",
        ),
        ({"model": "acoustic", "args": {"audio": {"job": ""}}}, "audio.job", "give a text"),
        ({"model": "acoustic", "args": {"audio": {"job": "nobody"}}}, "audio.job", "there is no job nobody"),
        ({"model": "acoustic", "args": {"audio": {"artifact": "0" * 64}}}, "audio.artifact", "SHA-256"),
        ({"model": "acoustic", "args": {"audio": {"artifact": "zz"}}}, "audio", "names no audio"),
        ({"model": "acoustic", "args": {"audio": ""}}, "audio", "not the path of a file"),
        ({"model": "acoustic", "args": {"audio": "a\x00b"}}, "audio", "not the path of a file"),
        ({"model": "acoustic", "args": {"audio": b""}}, "audio", "is empty"),
        ({"model": "acoustic", "args": {"audio": b"no audio at all"}}, "audio", "not audio"),
    ],
)
def test_a_request_that_cannot_succeed_is_refused_with_its_field(
    small_producer: Producer, request_: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(SubmitRefused, match=words) as refusal:
        small_producer.submit(**request_)

    assert refusal.value.field == field
    assert rows_of(small_producer.database) == []


def test_an_unknown_model_has_an_error_of_its_own(small_producer: Producer) -> None:
    with pytest.raises(UnknownModel):
        small_producer.submit(model="nothing-like-it", args={})


def write(path: Path, samples: Any, subtype: str = "FLOAT") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16000, subtype=subtype)
    return path


def truncated(folder: Path) -> Path:
    path = write(folder / "truncated.wav", np.zeros(16000, dtype=np.float32))
    path.write_bytes(path.read_bytes()[:20_000])
    return path


def not_numbers(folder: Path) -> Path:
    return write(folder / "nan.wav", np.full(16000, np.nan, dtype=np.float32))


def not_audio(folder: Path) -> Path:
    (folder / "x.wav").write_text("this is a text")
    return folder / "x.wav"


def empty(folder: Path) -> Path:
    (folder / "empty.wav").touch()
    return folder / "empty.wav"


def outside(folder: Path) -> Path:
    return write(folder.parent / "outside.wav", np.zeros(16000, dtype=np.float32))


def link_to_outside(folder: Path) -> Path:
    (folder / "link.wav").symlink_to(outside(folder))
    return folder / "link.wav"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "missing.wav", "No such file"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: folder / ".." / "in" / ".." / "x.wav", "outside the folders"),
        (empty, "is empty"),
        (truncated, "truncated"),
        (not_audio, "not audio"),
        (not_numbers, "not numbers"),
        (outside, "outside the folders"),
        (link_to_outside, "outside the folders"),
    ],
)
def test_audio_that_cannot_be_used_is_refused(
    small_producer: Producer, tmp_path: Path, make: Any, words: str
) -> None:
    (tmp_path / "in").mkdir()

    with pytest.raises(InputRefused, match=words) as refusal:
        small_producer.submit(model="acoustic", args={"audio": make(tmp_path / "in")})

    assert refusal.value.field == "audio"
    assert rows_of(small_producer.database) == []


def test_other_arguments_are_checked_before_audio_is_stored(small_producer: Producer, tone: Path) -> None:
    with pytest.raises(SubmitRefused, match="no language"):
        small_producer.submit(model="espeak-dtw", args={"audio": tone, "text": "a", "language": "xx"})

    assert list(small_producer.blobs.list()) == []


def test_a_producer_takes_either_settings_or_overrides(small_producer: Producer) -> None:
    with pytest.raises(SettingsError, match="either settings or overrides"):
        Producer(small_producer.settings, tenant="x")
    with pytest.raises(TypeError, match="either a request or its fields"):
        small_producer.submit(Request(model="espeak-ng", args=TEXT), model="espeak-ng")
