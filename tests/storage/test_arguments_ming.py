"""What Ming takes, and in which words it refuses the rest."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from soundmill.storage.arguments.ming import MING_TASKS, MingArguments, MingTask
from soundmill.storage.catalog import load_catalog
from soundmill.storage.errors import SubmitRefused

AUDIO = {"artifact": "a" * 64}
MUSIC = {"genre": "迪斯科", "mood": "快乐", "instrument": "架子鼓", "theme": "生日"}
SCRIPT = "speaker_1: 你好\n\n speaker_2:嗯。\n"
FIELDS: dict[str, Any] = {
    "text": "你好。",
    "prompt_audio": AUDIO,
    "prompt_text": "在此。",
    "speaker_audio": {"job": "@voice"},
    "speakers": [{"audio": AUDIO, "text": "对啊"}, {"audio": AUDIO, "text": "是的"}],
    "instruction": {
        "emotion": "happy",
        "dialect": "粤语",
        "style": "温柔",
        "speed": "fast",
        "voice": "灵小甄",
        "background": {"ambience": "Birds chirping"},
    },
    "music": MUSIC,
}


def least(task: MingTask) -> dict[str, Any]:
    fields = {name: FIELDS[name] for name in MING_TASKS[task].fields}
    return {"task": task} | fields | ({"text": SCRIPT} if task == "podcast" else {})


def refusal(args: dict[str, Any]) -> str:
    with pytest.raises(SubmitRefused) as caught:
        load_catalog().get("ming-omni-tts-0.5b").parse(args)
    return str(caught.value)


@pytest.mark.parametrize("task", get_args(MingTask))
def test_every_task_takes_its_inputs_and_misses_each_of_them(task: MingTask) -> None:
    assert MingArguments.model_validate(least(task)).task == task

    for name in MING_TASKS[task].fields:
        words = refusal({key: value for key, value in least(task).items() if key != name})
        assert f"{name} is missing" in words
        assert f"task {task!r} needs" in words


@pytest.mark.parametrize("task", get_args(MingTask))
def test_every_task_refuses_inputs_that_it_has_no_use_for(task: MingTask) -> None:
    for name in FIELDS.keys() - set(MING_TASKS[task].fields):
        assert f"has no use for {name}" in refusal(least(task) | {name: FIELDS[name]})


@pytest.mark.parametrize("task", [task for task, needs in MING_TASKS.items() if needs.one_of])
def test_a_task_with_an_instruction_needs_its_own_entry_of_it(task: MingTask) -> None:
    own = MING_TASKS[task].one_of
    instruction = {name: value for name, value in FIELDS["instruction"].items() if name not in own}

    assert "in its instruction" in refusal(least(task) | {"instruction": instruction})


def test_sound_and_music_have_defaults_of_their_own() -> None:
    speech, sound, music = (MingArguments.model_validate(least(task)) for task in ("tts", "sound", "music"))

    assert (speech.cfg, speech.sigma, speech.temperature, speech.max_steps) == (2.0, 0.25, 0.0, 200)
    assert (sound.cfg, sound.sigma, sound.temperature, sound.max_steps) == (4.5, 0.3, 2.5, 200)
    assert (music.cfg, music.max_steps) == (2.0, 400)
    assert MingArguments.model_validate(least("sound") | {"cfg": 1.0}).cfg == 1.0


def test_opus_has_a_rate_that_it_can_write() -> None:
    assert MingArguments(text="a").sample_rate == 44100
    assert MingArguments(text="a", format="opus").sample_rate == 48000


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"task": "sing", "text": "a"}, "task: Input should be 'tts', 'clone', 'speaker'"),
        (least("podcast") | {"speakers": FIELDS["speakers"][:1]}, "a podcast has 2 speakers; 1 is given"),
        ({"text": " "}, "the text is empty"),
        *(
            (
                least("podcast") | {"text": f"speaker_1: 你好\n{line}"},
                "line 2 of the podcast does not say who speaks",
            )
            for line in ("hello", "speaker_3: hi", "speaker_1:", "speaker_: hi")
        ),
        (least("clone") | {"prompt_text": "\x00"}, "NUL"),
        (least("control") | {"instruction": {"speed": "quick"}}, "'slow', 'medium', 'fast'"),
        (least("speech_with_music") | {"instruction": {"background": {}}}, "an empty background"),
        (least("tts") | {"instruction": {"tone": "x"}}, "ming-omni-tts-0.5b has no such argument"),
        (least("tts") | {"cfg": -1}, "cfg: "),
        (least("tts") | {"max_steps": 401}, "max_steps: "),
        (least("tts") | {"format": "opus", "sample_rate": 44100}, "is not offered for opus"),
        (
            least("podcast") | {"speakers": [{"audio": 5, "text": "a"}] * 2},
            "speakers.0.audio: this names no audio",
        ),
    ],
)
def test_a_refusal_says_what_to_do(args: dict[str, Any], words: str) -> None:
    assert words in refusal(args)
