"""Input audio inside lists: `context.*.audio` of a conversation."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from soundmill.producer import Producer, Request
from soundmill.producer.commands.single import _paths_in
from soundmill.producer.manifest import Line, Options, read_manifest
from soundmill.storage.collector import Collector
from soundmill.storage.errors import InputRefused, SubmitRefused
from soundmill.storage.lifecycle import State

from .playing import finish_with_file, write_tone


def turn(audio: Any, **more: Any) -> dict[str, Any]:
    return {"text": "As I said.", "audio": audio, **more}


def talk(*turns: Any, **more: Any) -> Request:
    return Request(model="csm-1b", args={"text": "Good morning.", "context": list(turns)}, **more)


def test_audio_in_any_form_is_stored_for_each_turn(small_producer: Producer, tone: Path) -> None:
    other = tone.with_name("other.wav")
    write_tone(other, seconds=0.5)
    job = small_producer.submit(talk(turn(tone), turn(other.read_bytes(), speaker=1), turn({"path": other})))

    [first, second, third] = job.artifacts()
    assert [item.name for item in job.artifacts()] == [
        "input/context-0-audio", "input/context-1-audio", "input/context-2-audio"
    ]  # fmt: skip
    assert second.sha256 == third.sha256 != first.sha256
    context = job.get().args["context"]
    assert [item["audio"] for item in context] == [
        {"artifact": first.sha256}, {"artifact": second.sha256}, {"artifact": second.sha256}
    ]  # fmt: skip
    assert [item["speaker"] for item in context] == [0, 1, 0]


def test_the_same_audio_in_another_form_is_the_same_request(small_producer: Producer, tone: Path) -> None:
    jobs = [
        small_producer.submit(talk(turn(audio), turn(tone, speaker=speaker), idempotency_key="k"))
        for audio, speaker in ((tone, 1), (str(tone), 1), (tone.read_bytes(), 1), ({"path": tone}, 1))
    ]
    assert len({job.id for job in jobs}) == 1

    with pytest.raises(SubmitRefused, match="idempotency key"):
        small_producer.submit(talk(turn(tone), turn(tone, speaker=2), idempotency_key="k"))


def test_a_turn_can_be_the_audio_of_another_job(small_producer: Producer, tone: Path, tmp_path: Path) -> None:
    done = small_producer.submit(model="espeak-ng", args={"text": "Hello."})
    finish_with_file(small_producer, done.id, "audio.wav", tone.read_bytes(), tmp_path)
    [made] = done.artifacts()
    speech, reply = small_producer.submit_graph(
        [
            Request(alias="speech", model="espeak-ng", args={"text": "Good morning."}),
            talk(
                turn({"job": "@speech"}),
                turn(done),
                turn({"artifact": made.sha256}),
                turn({"job": done}),
                alias="reply",
            ),
        ]
    )

    view = reply.get()
    assert view.state == State.SCHEDULED
    assert [item["audio"] for item in view.args["context"]] == [
        {"job": speech.id}, {"job": done.id}, {"artifact": made.sha256}, {"job": done.id}
    ]  # fmt: skip
    [kept] = reply.artifacts()
    assert (kept.name, kept.sha256, kept.role) == ("input/context-2-audio", made.sha256, "input")


def test_the_collector_spares_the_audio_of_turns(small_producer: Producer, tone: Path) -> None:
    job = small_producer.submit(talk(turn(tone)))
    [kept] = job.artifacts()
    collected = Collector(small_producer.database, small_producer.blobs, grace_s=0).collect(now=2**33)

    assert collected.deleted == 0
    with job.open_artifact(kept.name) as stream:
        assert stream.read() == tone.read_bytes()


@pytest.mark.parametrize(
    ("audio", "field", "words"),
    [
        (Path("/etc/passwd"), "context.1.audio", "outside the folders"),
        (b"no audio", "context.1.audio", "is not audio"),
        ({"job": "@nobody"}, "context.1.audio.job", "no job of this submit has the alias"),
        ({"job": "x"}, "context.1.audio.job", "there is no job x"),
        ({"artifact": "f" * 64}, "context.1.audio.artifact", "none of the jobs has a file"),
        ({"artifact": "f"}, "context.1.audio", "names no audio"),
        ({"jobs": "x"}, "context.1.audio", "give the audio as a path"),
        (5, "context.1.audio", "give the audio as a path"),
        ("", "context.1.audio", "not the path of a file"),
        (None, "context.1.audio", "names no audio"),
    ],
)
def test_a_refusal_names_the_turn(
    small_producer: Producer, tone: Path, audio: Any, field: str, words: str
) -> None:
    with pytest.raises(SubmitRefused) as caught:
        small_producer.submit(talk(turn(tone), turn(audio)))

    assert caught.value.field == field
    assert words in str(caught.value)


def test_audio_with_nan_is_refused_by_its_turn(small_producer: Producer, tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(800, np.nan, np.float32), 16000, format="WAV", subtype="FLOAT")
    with pytest.raises(InputRefused, match="NaN") as caught:
        small_producer.submit(talk(turn(buffer.getvalue())))
    assert caught.value.field == "context.0.audio"


@pytest.mark.parametrize(
    ("args", "field", "words"),
    [
        ({"text": " "}, "text", "the text is empty"),
        ({"text": "a", "speaker": "alice"}, "speaker", "a speaker is a whole number"),
        ({"text": "a", "speaker": True}, "speaker", "a speaker is a whole number"),
        ({"text": "a", "speaker": -1}, "speaker", "greater than or equal to 0"),
        ({"text": "a", "context": "x"}, "context", "context: "),
        ({"text": "a", "context": ["x"]}, "context.0", "context.0: "),
        ({"text": "a", "context": [{"text": "b"}]}, "context.0.audio", "needs this argument"),
        ({"text": "a", "context": [{"spkr": 1}]}, "context.0.text", "needs this argument"),
        ({"text": "a", "temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"text": "a", "max_seconds": float("inf")}, "max_seconds", "finite"),
        ({"text": "a", "format": "opus", "sample_rate": 44100}, None, "not offered for opus"),
    ],
)
def test_wrong_arguments_are_refused_at_submit(
    small_producer: Producer, args: dict[str, Any], field: str | None, words: str
) -> None:
    with pytest.raises(SubmitRefused) as caught:
        small_producer.submit(model="csm-1b", args=args)

    assert caught.value.field == field
    assert words in str(caught.value)


def test_a_file_that_is_named_on_a_command_line_may_be_read(small_producer: Producer) -> None:
    model = small_producer.catalog.get("csm-1b")
    context = [turn("a.wav"), turn({"path": "b.wav"}), turn({"job": "x"}), turn({"artifact": "y"}), turn(5)]

    assert list(_paths_in({"text": "a", "context": context}, model)) == [Path("a.wav"), Path("b.wav")]


def test_a_manifest_gives_turns_relative_to_its_folder(small_producer: Producer, tone: Path) -> None:
    record = {"model": "csm-1b", "text": "Good morning.", "context": [turn("tone.wav")]}
    [line] = read_manifest(io.BytesIO(json.dumps(record).encode()), "b", Options())
    assert isinstance(line, Line)
    job = small_producer.submit(line.request, intake=small_producer.open_intake(base=tone.parent))

    assert [item.size for item in job.artifacts()] == [tone.stat().st_size]
