from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soundmill.models.errors import InputError, ModelUnavailable
from soundmill.models.ming.instruction import doubts, entries_of, instruction_json
from soundmill.models.ming.prompt import SPEECH, music_text, podcast_text, podcast_turns
from soundmill.models.ming.tokenizer import MingTokenizer
from soundmill.storage.arguments.ming import MingInstruction

from . import golden

CASES = golden.cases()
NAMES = [case["name"] for case in CASES]


def case(name: str) -> dict[str, Any]:
    return CASES[NAMES.index(name)]


@pytest.mark.parametrize("index", range(len(CASES)), ids=NAMES)
def test_the_ids_of_every_kind_of_prompt_are_those_of_the_published_program(index: int) -> None:
    ids = golden.prompt_ids(CASES[index])

    assert list(ids.ids) == CASES[index]["tiny_tokenizer_ids"]
    assert golden.case_vectors(index)["input_ids"][0].tolist() == list(ids.ids)
    assert len(ids.speakers) == CASES[index]["n_speakers"]
    assert len(ids.patches) == CASES[index]["n_prompt_patches"]


@pytest.mark.parametrize("name", [entry["name"] for entry in CASES if entry["instruction"]])
def test_an_instruction_is_the_json_of_the_published_program(name: str) -> None:
    assert instruction_json(case(name)["instruction"]) == case(name)["instruction_json"]


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("voice_design", {"style": "温柔的女声，语速很慢。"}),
        ("emotion", {"emotion": "happy"}),
        ("emotion", {"emotion": "高兴"}),
        ("basic_control", {"speed": "fast", "pitch": "medium", "volume": "medium"}),
        ("ip_voice", {"voice": "灵小甄"}),
        (
            "speech_bgm",
            {
                "background": {
                    "genre": "当代古典音乐.",
                    "mood": "温暖 / 友善.",
                    "instrument": "电吉他",
                    "theme": "节日.",
                    "snr_db": 10.0,
                }
            },
        ),
    ],
)
def test_what_a_submitter_writes_becomes_that_json(name: str, typed: dict[str, Any]) -> None:
    stored = MingInstruction.model_validate(typed).model_dump()

    assert instruction_json(entries_of(stored)) == case(name)["instruction_json"]


def test_the_sound_of_a_place_comes_before_the_words_of_music() -> None:
    stored = MingInstruction.model_validate({"background": {"ambience": "Birds chirping", "snr_db": 5}})

    text = instruction_json(entries_of(stored.model_dump()))

    assert '"BGM": {"ENV": "Birds chirping", "SNR": 5.0, "Genre": null, "Mood": null' in text


def test_entries_that_the_model_does_not_know_are_dropped() -> None:
    assert "tempo" not in instruction_json({"tempo": "fast"})


def test_values_on_no_list_are_doubted_and_known_ones_are_not() -> None:
    known = {"emotion": "sad", "dialect": "粤语", "voice": "灵小甄_高兴", "style": "anything"}
    unknown = {"emotion": "wistful", "dialect": "Geordie", "voice": "Bob"}

    assert doubts(known) == []
    assert [sentence.partition(":")[0] for sentence in doubts(unknown)] == [
        "instruction.emotion",
        "instruction.dialect",
        "instruction.voice",
    ]


def test_control_tokens_in_a_text_are_spelled_out() -> None:
    tokenizer = MingTokenizer(golden.CHECKPOINT)
    plain = golden.writer().write(SPEECH, "say <audio> or <|vision_start|>", speakers=1)

    assert tokenizer.control("<audio>") not in tokenizer.encode_text("<audio>")
    assert tokenizer.encode("<audio>") == [tokenizer.control("<audio>")]
    assert plain.ids.count(tokenizer.control("<audio>")) == 1
    assert plain.ids.count(tokenizer.control("<|vision_start|>")) == 1


def test_music_and_podcasts_are_written_as_in_the_published_examples() -> None:
    music = {
        "genre": "电子舞曲",
        "mood": "自信 / 坚定",
        "instrument": "架子鼓",
        "theme": "节日",
        "duration": "30s",
    }

    assert music_text(music) == case("bgm")["text"]
    assert podcast_text(podcast_turns("speaker_1:你好\nspeaker_2: 嗯。\n", 2)) == case("podcast")["text"]


@pytest.mark.parametrize(
    "script", ["hello", "speaker_3: hi", "speaker_x: hi", "speaker_0: hi", "speaker_1: "]
)
def test_a_podcast_line_without_one_of_its_speakers_is_refused(script: str) -> None:
    with pytest.raises(InputError, match="every line of a podcast names its speaker"):
        podcast_turns(script, 2)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json is missing"):
        MingTokenizer(tmp_path)
