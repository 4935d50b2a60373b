"""Whether a folder holds the parts of a captioner that its code expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..comparison import Wanted, compare
from ..finding import Finding
from ..tensor_files import stored_in
from .checkpoint import UNUSED_OF_AUDIO, Checkpoint, weight_files
from .hearing import AudioTower
from .language import LanguageModel
from .prompt import TASKS, Speller
from .shape import Shape, read_shape

_SYSTEM = "You are a helpful assistant."
_OTHER_PARTS = ("thinker.visual.", "talker.", "token2wav.")


def examine(folder: Path) -> tuple[Finding, ...]:
    """Compare configuration, tokenizer and tensors with what the loading takes.

    Raises:
        ModelUnavailable: There is nothing to compare; the message says what is missing or damaged.
    """
    shape = read_shape(folder)
    text, audio = shape.text, shape.audio
    return (
        Finding(
            question="configuration",
            as_expected=True,
            answer=f"a language model of {text.layers} layers of {text.hidden}, an audio tower of {audio.layers} "
            f"of {audio.hidden}",
        ),
        _tokenizer(Speller(folder, shape), shape),
        *compare(stored_in(weight_files(folder)), _wanted(shape), unread=_is_known),
    )


class _Survey(Checkpoint):
    """A checkpoint that notes what is asked of it, and gives nothing."""

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []

    def copy(self, name: str, target: Any) -> None:
        """Note a tensor."""
        self.wanted.append(Wanted(names=(name,), shape=tuple(target.shape)))


def _is_known(name: str) -> bool:
    """Whether a tensor that is not read belongs to the published model."""
    return name.startswith(_OTHER_PARTS) or name == UNUSED_OF_AUDIO


def _wanted(shape: Shape) -> list[Wanted]:
    survey = _Survey()
    LanguageModel(shape.text, "meta", torch.float32).read(survey)
    AudioTower(shape.audio, torch.device("meta"), torch.float32).read(survey)
    return survey.wanted


def _tokenizer(speller: Speller, shape: Shape) -> Finding:
    wording = speller.wording(TASKS["describe"], _SYSTEM)
    largest = max(*wording.before, *wording.behind, *speller.stops, shape.audio_id)
    fits = largest < shape.text.vocabulary
    return Finding(
        question="tokenizer",
        as_expected=fits,
        answer=f"a prompt is {wording.tokens} tokens, and all have embeddings"
        if fits
        else f"it has the id {largest}, and the model {shape.text.vocabulary} embeddings; use its own tokenizer",
    )
