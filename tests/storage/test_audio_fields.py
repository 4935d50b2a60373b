"""Where input audio stands among arguments, at the top and in lists."""

from __future__ import annotations

from typing import Any

import pytest

from soundmill.storage.arguments import Arguments, AudioInput
from soundmill.storage.audio_fields import audio_field_at, audio_in, input_name, with_audio
from soundmill.storage.catalog import Model
from soundmill.storage.errors import SubmitRefused

FIELDS = ("reference", "turns.*.audio")


class Turn(Arguments):
    text: str = ""
    audio: AudioInput | None = None


class Talk(Arguments):
    reference: AudioInput | None = None
    turns: tuple[Turn, ...] = ()


TALK = Model(id="talk", kind="tts", title="", arguments=Talk, handler="-:-", licence="-", audio_fields=FIELDS)
SHA256 = "0" * 64


def test_audio_is_found_by_its_full_name() -> None:
    args = {"reference": "a.wav", "turns": [{"audio": b"b"}, {"text": "no audio"}, {"audio": {"job": "@c"}}]}

    assert audio_in(args, FIELDS) == {
        "reference": "a.wav", "turns.0.audio": b"b", "turns.2.audio": {"job": "@c"}
    }  # fmt: skip


@pytest.mark.parametrize(
    "turns", [None, "ab", {"audio": "a"}, 3, [None, 3, "audio", ["audio"]], {0: {"audio": "a"}}]
)
def test_arguments_of_another_form_hold_no_audio(turns: Any) -> None:
    assert audio_in({"turns": turns}, FIELDS) == {}


def test_audio_is_replaced_in_a_copy() -> None:
    args = {"reference": None, "turns": ({"audio": 1, "text": "x"}, {"audio": None}, {"audio": 3})}
    changed = with_audio(args, {"turns.0.audio": "one", "turns.2.audio": "three", "reference": "r"})

    assert changed == {
        "reference": "r", "turns": ({"audio": "one", "text": "x"}, {"audio": None}, {"audio": "three"})
    }  # fmt: skip
    assert args["turns"] == ({"audio": 1, "text": "x"}, {"audio": None}, {"audio": 3})
    assert list(with_audio({"turns": [{"audio": n} for n in range(12)]}, {"turns.11.audio": -1})["turns"]) == [
        *({"audio": n} for n in range(11)), {"audio": -1}
    ]  # fmt: skip


def test_the_place_of_an_error_belongs_to_an_audio_field_or_to_none() -> None:
    assert audio_field_at(("turns", 1, "audio", "JobInput", "job"), FIELDS) == "turns.1.audio"
    assert audio_field_at(("reference",), FIELDS) == "reference"
    assert audio_field_at(("turns", 1, "text"), FIELDS) is None
    assert audio_field_at(("turns",), FIELDS) is None


def test_the_name_of_an_artifact_has_no_ending() -> None:
    assert input_name("audio") == "input/audio"
    assert input_name("turns.1.audio") == "input/turns-1-audio"


@pytest.mark.parametrize(
    ("turn", "field", "words"),
    [
        ({"audio": {"artifact": "abc"}}, "turns.0.audio", "names no audio"),
        ({"audio": 5}, "turns.0.audio", "names no audio"),
        ({"audoi": {"job": "x"}}, "turns.0.audoi", "did you mean 'audio'?"),
        ({"colour": "red"}, "turns.0.colour", "it takes audio, text"),
        ({"text": 3}, "turns.0.text", "valid string"),
        (3, "turns.0", "turns.0: "),
    ],
)
def test_a_refusal_names_the_field_inside_the_list(turn: Any, field: str, words: str) -> None:
    with pytest.raises(SubmitRefused) as caught:
        TALK.parse({"turns": [turn]})

    assert caught.value.field == field
    assert words in str(caught.value)


def test_arguments_of_a_row_come_back_with_tuples_and_all_defaults() -> None:
    kept = {"reference": None, "turns": [{"audio": {"artifact": SHA256}}]}

    assert TALK.restore(kept, 1) == {
        "reference": None, "turns": ({"text": "", "audio": {"artifact": SHA256}},)
    }  # fmt: skip
