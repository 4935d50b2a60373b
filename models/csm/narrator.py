"""Saying a whole text: part after part, each conditioned on the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..engine.sampling import Sampling
from ..errors import InputError
from ..part import RunPart
from .decoder import Speech
from .history import History
from .prompt import Prompter, Turn
from .sentences import most_frames, split_text
from .sizes import Sizes

if TYPE_CHECKING:
    from ..engine.ports import Generated
    from ..handler import Run
    from ..place import Engine

MOST_TRIES = 3
"""How often a part is made that runs into its cap, or makes no frame at all."""

_SEEDS_PER_PART = 2**32  # so that the tries of two parts never meet


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a text is to be said.

    Attributes:
        most: Frames of all parts together, if bounded.
    """

    text: str
    speaker: int
    sampling: Sampling
    seed: int
    max_frames: int
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """One part as it was said.

    Attributes:
        generated: The last try.
        tries: How many there were.
        lost: Whether even the last ran into the cap that belongs to the text's length.
        cut: Whether it ended at a limit of the request's own, or the parts after it are left out for one.
        turns: How many turns went before it.
    """

    text: str
    generated: Generated[Speech]
    tries: int
    lost: bool
    cut: bool
    turns: int


class Narrator:
    """Says texts with the engine's help. Safe between threads."""

    def __init__(self, engine: Engine, name: str, prompter: Prompter, sizes: Sizes) -> None:
        """Use the slot model `name` of an engine, whose decoder gives `Speech`."""
        self._engine = engine
        self._name = name
        self._prompter = prompter
        self._sizes = sizes

    def say(self, wish: Wish, context: Sequence[Turn], run: Run) -> Iterator[Part]:
        """Say a text part by part; each is there as soon as it is done.

        Raises:
            InputError: There is no room for the text or a turn, or nothing comes out.
            Interrupted: From the run.
        """
        history = History(
            self._prompter, self._sizes, speaker=wish.speaker, max_frames=wish.max_frames, context=context
        )
        texts = split_text(wish.text)
        whole, said, frames = sum(map(len, texts)), 0, 0
        for number, text in enumerate(texts):
            left = None if wish.most is None else wish.most - frames
            if left == 0:
                return
            before = {"frames": frames, "audio_s": frames * self._sizes.frame_s}
            share = RunPart(run, begin=said / whole, share=len(text) / whole, made=before)
            part = self._part(wish, number, text, history.before(text), left, share)
            history.add(Turn(speaker=wish.speaker, text=text, codes=part.generated.value.codes))
            said += len(text)
            frames += len(part.generated.value.codes)
            unsaid = frames == wish.most and number + 1 < len(texts)
            yield replace(part, cut=True) if unsaid else part

    def _part(
        self, wish: Wish, number: int, text: str, turns: Sequence[Turn], left: int | None, run: Run
    ) -> Part:
        natural = most_frames(text)
        cap = min(natural, wish.max_frames, natural if left is None else left)
        tries = 1 if wish.sampling.temperature == 0 else MOST_TRIES  # greedy makes the same again
        done = 0
        while True:
            done += 1
            prompt = self._prompter.prompt(
                turns,
                wish.speaker,
                text,
                sampling=wish.sampling,
                seed=wish.seed + number * _SEEDS_PER_PART + done - 1,
            )
            ticket = self._engine.generate(self._name, prompt, positions=len(prompt), max_steps=cap)
            generated: Generated[Speech] = ticket.wait(run)
            lost = not generated.stopped and cap == natural
            if done == tries or (len(generated.value.codes) and not lost):
                break
        if not len(generated.value.codes):
            raise InputError(
                f"text: the model ended part {number + 1} before its first frame, {done} times; "
                "try another seed, another wording or a context"
            )
        cut = not generated.stopped and not lost
        return Part(text=text, generated=generated, tries=done, lost=lost, cut=cut, turns=len(turns))


def metrics_of(parts: Sequence[Part]) -> Mapping[str, float | int | str | bool]:
    """The figures of all parts together: times add up, the first frame is that of the first part."""
    found: dict[str, float | int | str | bool] = {}
    every = [part.generated.metrics for part in parts]
    for name in ("queue_s", "prefill_s", "generation_s", "decode_s"):
        found[name] = round(sum(float(figures.get(name, 0.0)) for figures in every), 6)
    for name in ("batch_size", "bucket"):
        found[name] = max(int(figures.get(name, 0)) for figures in every)
    found["first_step_s"] = every[0].get("first_step_s", 0.0)
    steps = max(sum(part.generated.steps for part in parts), 1)
    spent = sum(float(part.generated.metrics.get("step_ms", 0.0)) * part.generated.steps for part in parts)
    found["step_ms"] = round(spent / steps, 4)
    if "dtype" in every[0]:
        found["dtype"] = every[0]["dtype"]
    return found
