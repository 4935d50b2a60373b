"""Priorities: 0 to 9 for people, 9 first; four steps for the broker, 0 first."""

from __future__ import annotations

LOWEST, HIGHEST, DEFAULT = 0, 9, 4

STEPS = (0, 3, 6, 9)
"""The priority steps of the broker: Redis keeps one list for each."""


def priorities_of(step: int) -> tuple[int, ...]:
    """The public priorities that share a step of the broker."""
    return tuple(priority for priority in range(LOWEST, HIGHEST + 1) if step_of(priority) == step)


def step_of(priority: int) -> int:
    """The broker's step of a public priority: 9–8 → 0, 7–5 → 3, 4–2 → 6, 1–0 → 9.

    Args:
        priority: 0 to 9, 9 first.
    """
    if not LOWEST <= priority <= HIGHEST:
        raise ValueError(f"priority {priority} is not between {LOWEST} and {HIGHEST}")
    return 0 if priority >= 8 else 3 if priority >= 5 else 6 if priority >= 2 else 9
