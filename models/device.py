"""Cards: their names, and the environment that binds a process to one.

No other file knows the kinds of accelerators by name. A process sees one card. The variables have
to be set before any library of the vendor is imported, so the supervisor puts them into the
environment of the child that it starts for the card.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VISIBLE = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES", "cpu": None}

_NPU_DEFAULTS = {
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "TASK_QUEUE_ENABLE": "1",
    "ASCEND_GLOBAL_LOG_LEVEL": "3",
    "ASCEND_SLOG_PRINT_TO_STDOUT": "0",
}


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

    def environment(self, present: dict[str, str]) -> dict[str, str]:
        """What to add to a child's environment so that it sees this card only.

        Args:
            present: The environment so far. What somebody set on purpose is kept, except the
                choice of the card, which is ours.
        """
        variable = _VISIBLE[self.kind]
        added = {variable: str(self.index)} if variable else {}
        if self.kind == "npu":
            added |= {name: value for name, value in _NPU_DEFAULTS.items() if name not in present}
        return added
