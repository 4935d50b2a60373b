"""Prompts and histories of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from soundmill.models.csm.checkpoint import Checkpoint
from soundmill.models.csm.history import History
from soundmill.models.csm.prompt import Prompt, Prompter, Turn
from soundmill.models.engine.sampling import GREEDY
from soundmill.models.errors import InputError

AUDIO, AUDIO_END = 258, 259  # ids of the tiny tokenizer


def turn(frames: int, *, speaker: int = 0, text: str = "abc") -> Turn:
    return Turn(speaker=speaker, text=text, codes=torch.full((frames, 32), 3, dtype=torch.int16))


@pytest.mark.parametrize("case", ["text0", "text1", "text2", "text3"])
def test_a_text_has_the_ids_that_transformers_gives_it(
    case: str, golden: Mapping[str, Any], golden_prompts: Mapping[str, Prompt]
) -> None:
    prompt = golden_prompts[case]

    np.testing.assert_array_equal(prompt.text, golden[f"{case}_input_ids"])
    assert not prompt.audio.any()


def test_a_conversation_stands_where_transformers_puts_it(
    golden: Mapping[str, Any], golden_prompts: Mapping[str, Prompt]
) -> None:
    prompt, ids = golden_prompts["ctx"], golden["ctx_input_ids"]

    np.testing.assert_array_equal(prompt.audio, (ids == AUDIO) | (ids == AUDIO_END))
    np.testing.assert_array_equal(prompt.text[~prompt.audio], ids[~prompt.audio.numpy()])
    frames = np.concatenate(
        [golden["ctx_codes1"], np.zeros((1, 32)), golden["ctx_codes2"], np.zeros((1, 32))]
    )
    np.testing.assert_array_equal(prompt.codes[prompt.audio], frames)


def test_the_marks_of_a_recording_mean_nothing_inside_of_a_text(prompter: Prompter) -> None:
    prompt = prompter.prompt([], 0, "a<|AUDIO|>b<|end_of_text|>", sampling=GREEDY, seed=0)

    assert prompt.text.max() <= 257
    assert prompt.text.tolist().count(257) == 1


def test_lengths_are_those_of_the_prompt(prompter: Prompter) -> None:
    turns = [turn(5), turn(9, speaker=12, text="ä")]
    prompt = prompter.prompt(turns, 1, "xyz", sampling=GREEDY, seed=0)

    assert len(prompt) == sum(map(prompter.length, turns)) + prompter.length_of_text(1, "xyz")


# -- history -------------------------------------------------------------------------------------------


def history(
    prompter: Prompter, checkpoint: Checkpoint, context: Sequence[Turn], *, speaker: int = 0, max_frames: int
) -> History:
    return History(prompter, checkpoint.sizes, speaker=speaker, max_frames=max_frames, context=context)


def test_the_voice_prompt_comes_first_and_then_the_last_turns_that_fit(
    prompter: Prompter, checkpoint: Checkpoint
) -> None:
    given = [turn(40, speaker=1), turn(60, speaker=0), *(turn(50 + n, speaker=1) for n in range(6))]
    # Each turn takes its frames, a frame of end codes and eight ids of text; the text itself eight more.
    room = 8 + 69 + 64 + 63
    talk = history(prompter, checkpoint, given, max_frames=2048 - room)

    assert [len(t.codes) for t in talk.before("xyz")] == [60, 54, 55]
    talk.add(turn(20))
    assert [len(t.codes) for t in talk.before("xyz")] == [60, 55, 20]
    talk.add(turn(100))
    assert [len(t.codes) for t in talk.before("xyz")] == [60, 100]
    talk.add(turn(119))
    assert [len(t.codes) for t in talk.before("xyz")] == [60]


def test_without_a_context_the_first_part_is_the_voice_of_the_others(
    prompter: Prompter, checkpoint: Checkpoint
) -> None:
    talk = history(prompter, checkpoint, [], max_frames=2048 - 8 - 3 * 39)
    assert talk.before("xyz") == []
    for frames in (30, 29, 28, 27):
        talk.add(turn(frames))

    assert [len(t.codes) for t in talk.before("xyz")] == [30, 28, 27]


def test_a_first_part_that_does_not_fit_is_no_voice(prompter: Prompter, checkpoint: Checkpoint) -> None:
    talk = history(prompter, checkpoint, [], max_frames=2048 - 60)
    talk.add(turn(100))
    talk.add(turn(20))

    assert [len(t.codes) for t in talk.before("xyz")] == [20]


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ([turn(300)], r"context\.0\.audio: the turn takes 309 positions \(24\.0 s of audio\)"),
        ([turn(100), turn(150, speaker=1)], r"context\.1\.audio: .* beside the voice prompt; give a shorter"),
        ([turn(10), turn(300, speaker=1)], r"context\.1\.audio: "),
    ],
)
def test_a_turn_that_can_never_be_heard_is_named(
    prompter: Prompter, checkpoint: Checkpoint, context: Sequence[Turn], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        history(prompter, checkpoint, context, max_frames=1800).before("xyz")


def test_a_text_without_room_is_refused(prompter: Prompter, checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="max_frames: 2000 frames leave 48 of 2048 positions"):
        history(prompter, checkpoint, [], max_frames=2000).before("x" * 60)
