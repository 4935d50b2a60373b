"""What was found when a checkpoint was compared with what the code expects: `Finding`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An answer.

    Attributes:
        question: What was looked at.
        as_expected: Whether it is what this program relies on.
        answer: A sentence, with what to do where it is not.
        details: One line for each thing at fault.
        advice: Whether the model can be served all the same, so that another answer is only to be known.
    """

    question: str
    as_expected: bool
    answer: str
    details: tuple[str, ...] = ()
    advice: bool = False

    @property
    def passes(self) -> bool:
        """Whether the checkpoint can be used, as far as this goes."""
        return self.as_expected or self.advice
