"""The names of cards, and what a process has to see of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

VISIBLE = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES", "cpu": None}
"""The variable that chooses the cards of a kind which a process sees."""

_DEFAULTS = {
    # A vendor's library that is broken must not break `import torch`, and with it every other card of
    # the host. It is imported by name when its card is opened, where its error can be explained.
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    # A thread of torch's that waits for the other ones sleeps, and does not spin. A processor that has something
    # else to do, such as our own helpers, would otherwise be held up by waiting, a hundred times in a step.
    "OMP_WAIT_POLICY": "PASSIVE",
}

ADVICE = frozenset(_DEFAULTS)
"""Of the defaults those that a process can do without, once it has imported torch."""

_NPU_DEFAULTS = {
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "TASK_QUEUE_ENABLE": "1",
    "ASCEND_GLOBAL_LOG_LEVEL": "3",
    "ASCEND_SLOG_PRINT_TO_STDOUT": "0",
}


def defaults(kind: str, present: Mapping[str, str]) -> dict[str, str]:
    """What the libraries of a kind should find in the environment, as far as nobody has set it."""
    wanted = _DEFAULTS | (_NPU_DEFAULTS if kind == "npu" else {})
    added = {name: value for name, value in wanted.items() if name not in present}
    if "PYTORCH_ALLOC_CONF" in present:  # torch_npu 2.13 reads either, and refuses both together
        added.pop("PYTORCH_NPU_ALLOC_CONF", None)
    return added


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator of this host, or one share of its processor.

    Attributes:
        kind: `npu`, `cuda` or `cpu`.
        index: Its number among those of its kind on the host.
    """

    kind: str
    index: int

    @classmethod
    def parse(cls, text: str) -> Card:
        """Read `cpu:0`; a kind alone is its first card.

        Raises:
            ValueError: With a sentence that says how to write it.
        """
        match = re.fullmatch(r"(npu|cuda|cpu)(?::(\d{1,3}))?", text.strip())
        if match is None:
            raise ValueError(f"{text!r} names no card; write npu:0, cuda:1 or cpu:0")
        return cls(match[1], int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"

    @property
    def has_driver(self) -> bool:
        """Whether it is an accelerator, whose driver can hang whatever runs on it."""
        return self.kind != "cpu"

    def environment(self, present: Mapping[str, str]) -> dict[str, str]:
        """What to add to a child's environment so that it sees this card only.

        Args:
            present: The environment so far. What somebody set on purpose is kept, except the
                choice of the card, which is ours.
        """
        variable = VISIBLE[self.kind]
        return ({variable: str(self.index)} if variable else {}) | defaults(self.kind, present)

    def place(self, present: Mapping[str, str]) -> int:
        """The number by which this process knows the card.

        A process that was shown this card alone knows it as 0. Otherwise its number counts among
        those that are visible.
        """
        variable = VISIBLE[self.kind]
        if variable is not None and present.get(variable, "").strip() == str(self.index):
            return 0
        return self.index
