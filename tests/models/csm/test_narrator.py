"""Saying whole texts, with an engine that is played."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soundmill.models.csm.checkpoint import Checkpoint
from soundmill.models.csm.decoder import Speech
from soundmill.models.csm.narrator import MOST_TRIES, Narrator, Part, Wish, metrics_of
from soundmill.models.csm.prompt import Prompt, Prompter, Turn
from soundmill.models.csm.sentences import most_frames
from soundmill.models.engine.ports import Generated
from soundmill.models.engine.sampling import Sampling
from soundmill.models.errors import InputError

from ..speech import FakeRun

LONG = "The first sentence goes on for quite a while, as some sentences do. " * 6


class PlayedEngine:
    """Makes as many frames as it is told, one entry for each request; the code of a frame is its request."""

    def __init__(self, *frames: int | None) -> None:
        self.frames = frames  # `None` runs into the cap
        self.asked: list[tuple[Prompt, int]] = []

    def generate(self, name: str, prompt: Prompt, *, positions: int, max_steps: int) -> PlayedEngine:
        assert name == "csm"
        assert positions == len(prompt)
        self.asked.append((prompt, max_steps))
        return self

    def wait(self, run: Any) -> Generated[Speech]:
        number = len(self.asked) - 1
        wanted = self.frames[number % len(self.frames)]
        most = self.asked[-1][1]
        count = most if wanted is None else min(wanted, most)
        run.checkpoint(0.5)
        codes = torch.full((count, 32), number + 1, dtype=torch.int16)
        return Generated(
            value=Speech(codes=codes, audio=np.zeros(count * 1920, np.float32)),
            steps=count,
            stopped=wanted is not None and wanted < most,
            metrics={
                "batch_size": number + 1,
                "prefill_s": 0.5,
                "step_ms": 2.0,
                "first_step_s": number + 0.25,
            },
        )


def say(
    engine: PlayedEngine,
    checkpoint: Checkpoint,
    prompter: Prompter,
    run: FakeRun,
    text: str,
    *,
    context: Sequence[Turn] = (),
    temperature: float = 0.9,
    max_frames: int = 1024,
    most: int | None = None,
) -> list[Part]:
    wish = Wish(
        text=text, speaker=0, sampling=Sampling(temperature=temperature, top_k=50), seed=7,
        max_frames=max_frames, most=most,
    )  # fmt: skip
    narrator = Narrator(engine, "csm", prompter, checkpoint.sizes)  # type: ignore[arg-type]
    return list(narrator.say(wish, context, run))


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "scratch")


def test_a_long_text_is_said_in_parts_each_after_the_one_before(
    checkpoint: Checkpoint, prompter: Prompter, run: FakeRun
) -> None:
    engine = PlayedEngine(30, 40)
    given = Turn(speaker=0, text="before", codes=torch.full((9, 32), 60, dtype=torch.int16))
    first, second = say(engine, checkpoint, prompter, run, LONG, context=[given])

    assert (first.turns, second.turns) == (1, 2)
    assert f"{first.text} {second.text}" == LONG.strip()
    # Codes that were made go before the next part as they are.
    frames = engine.asked[1][0].codes[engine.asked[1][0].audio]
    assert frames[:, 0].tolist() == [60] * 9 + [0] + [1] * 30 + [0]
    assert [cap for _, cap in engine.asked] == [most_frames(first.text), most_frames(second.text)]
    assert run.progress == sorted(run.progress)
    assert 0 < run.progress[0] < run.progress[-1] < 1


def test_a_run_into_the_cap_is_tried_with_the_next_seed(
    checkpoint: Checkpoint, prompter: Prompter, run: FakeRun
) -> None:
    engine = PlayedEngine(None, None, 12)
    [part] = say(engine, checkpoint, prompter, run, "Hello.")

    assert (part.tries, part.lost, part.cut) == (3, False, False)
    assert [prompt.seed for prompt, _ in engine.asked] == [7, 8, 9]


def test_the_tries_are_bounded(checkpoint: Checkpoint, prompter: Prompter, run: FakeRun) -> None:
    engine = PlayedEngine(None)
    [part] = say(engine, checkpoint, prompter, run, "Hello.")

    assert (part.tries, part.lost) == (MOST_TRIES, True)
    assert len(engine.asked) == MOST_TRIES


def test_the_tries_of_two_parts_never_draw_the_same(
    checkpoint: Checkpoint, prompter: Prompter, run: FakeRun
) -> None:
    engine = PlayedEngine(None)
    say(engine, checkpoint, prompter, run, LONG)

    seeds = [prompt.seed for prompt, _ in engine.asked]
    assert len(set(seeds)) == len(seeds) == 2 * MOST_TRIES


def test_a_greedy_run_is_not_tried_again(checkpoint: Checkpoint, prompter: Prompter, run: FakeRun) -> None:
    [part] = say(PlayedEngine(None), checkpoint, prompter, run, "Hello.", temperature=0.0)

    assert (part.tries, part.lost) == (1, True)


def test_a_limit_of_the_request_is_no_reason_to_try_again(
    checkpoint: Checkpoint, prompter: Prompter, run: FakeRun
) -> None:
    engine = PlayedEngine(None)
    [part] = say(engine, checkpoint, prompter, run, "Hello.", max_frames=5)

    assert (part.tries, part.lost, part.cut) == (1, False, True)
    assert engine.asked[0][1] == 5


def test_a_limit_of_the_whole_ends_the_last_part_that_fits(
    checkpoint: Checkpoint, prompter: Prompter, run: FakeRun
) -> None:
    parts = say(PlayedEngine(30, None), checkpoint, prompter, run, LONG * 3, most=45)

    assert [len(part.generated.value.codes) for part in parts] == [30, 15]
    assert [part.cut for part in parts] == [False, True]
    [part] = say(PlayedEngine(30), checkpoint, prompter, run, LONG, most=30)
    assert part.cut, "the second part is left out"


def test_a_part_without_a_frame_is_tried_again_and_then_an_error(
    checkpoint: Checkpoint, prompter: Prompter, run: FakeRun
) -> None:
    [part] = say(PlayedEngine(0, 5), checkpoint, prompter, run, "Hello.")
    assert part.tries == 2
    with pytest.raises(
        InputError, match="text: the model ended part 1 before its first frame, 3 times; try another seed"
    ):
        say(PlayedEngine(0), checkpoint, prompter, run, "Hello.")


def test_the_figures_of_the_parts_come_together(
    checkpoint: Checkpoint, prompter: Prompter, run: FakeRun
) -> None:
    figures = metrics_of(say(PlayedEngine(10, 30), checkpoint, prompter, run, LONG))

    assert figures["batch_size"] == 2
    assert figures["prefill_s"] == 1.0
    assert figures["first_step_s"] == 0.25
    assert figures["step_ms"] == 2.0
