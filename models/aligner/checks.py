"""Whether a folder holds the aligner that its code expects."""

from __future__ import annotations

from pathlib import Path

from ..comparison import Wanted, compare
from ..finding import Finding
from ..tensor_files import stored_in
from .checkpoint import RENAMED, TRAINING_ONLY, empty_model, read_config, read_letters, weight_files
from .romanization import LETTERS
from .script import STAR

_ALPHABET = frozenset({*LETTERS, STAR})


def examine(folder: Path) -> tuple[Finding, ...]:
    """Compare configuration, vocabulary and tensors with what `load_checkpoint` takes.

    Raises:
        ModelUnavailable: There is nothing to compare; the message says what is missing or damaged.
    """
    config = read_config(folder)
    letters = read_letters(folder, config.vocab_size)
    wanted = [
        Wanted(names=(name, *_older(name)), shape=tuple(tensor.shape))
        for name, tensor in empty_model(config).state_dict().items()
        if name not in TRAINING_ONLY
    ]
    return (
        Finding(
            question="configuration",
            as_expected=True,
            answer=f"{config.num_hidden_layers} layers of {config.hidden_size}, {config.vocab_size} classes",
        ),
        Finding(
            question="vocabulary",
            as_expected=len(letters) == len(_ALPHABET),
            answer=f"{len(letters) - 1} letters",
            details=tuple(f"missing: {letter}" for letter in sorted(_ALPHABET - letters.keys())),
        ),
        *compare(stored_in(weight_files(folder)), wanted, unread=TRAINING_ONLY.__contains__),
    )


def _older(name: str) -> tuple[str, ...]:
    """What a tensor was called before torch named the parts of a normalised weight anew."""
    return tuple(name.removesuffix(new) + old for old, new in RENAMED if name.endswith(new))
