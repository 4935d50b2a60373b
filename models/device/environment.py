"""The environment of a process that will use a card, to be set before torch is imported."""

from __future__ import annotations

import os
import sys

from ..errors import ModelUnavailable
from .card import ADVICE, Card

_OFF = {"", "0", "false", "no"}


def prepare_env(card: Card) -> None:
    """Bind this process to `card`; call it before anything imports torch.

    What is set already is kept, except the choice of the card.

    Raises:
        ModelUnavailable: torch is imported already and read another environment, or a setting
            would change what `cuda` means in this process.
    """
    refuse_transfer(os.environ.get("TORCH_TRANSFER_TO_NPU", ""))
    wanted = card.environment(os.environ)
    missing = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
    # torch read it when it was imported; whether it loads a vendor's library is decided by now.
    late = missing.keys() - ADVICE
    if late and "torch" in sys.modules:
        settings = " ".join(f"{name}={missing[name]}" for name in sorted(late))
        raise ModelUnavailable(
            f"torch was imported before this process was bound to {card}; set {settings} before the program starts"
        )
    os.environ.update(missing)


def refuse_transfer(value: str) -> None:
    """Refuse the switch that turns `torch.cuda` into the NPU's module for the whole process.

    Raises:
        ModelUnavailable: It is on.
    """
    if value.strip().lower() not in _OFF:
        raise ModelUnavailable(
            "TORCH_TRANSFER_TO_NPU is set, which replaces torch.cuda for the whole process and hides which card"
            " a tensor is on; unset it"
        )
