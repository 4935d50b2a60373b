"""Rows of Ming brought on by the engine's lane, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soundmill.models.device import Device
from soundmill.models.ming.rows import MingPrompt
from soundmill.models.ming.speech import SpeechSlots

from ..slot_contract import Case, Rows


def as_case(prompt: MingPrompt, max_steps: int | None = None) -> Case:
    return Case(prompt=prompt, positions=len(prompt.ids), max_steps=max_steps or prompt.max_patches + 1)


def generated(model: SpeechSlots, device: Device, prompts: Sequence[MingPrompt], slots: int) -> list[Any]:
    """What becomes of prompts in so many slots."""
    rows = Rows(model, device, slots)
    requests = [rows.ask(as_case(prompt)) for prompt in prompts]
    rows.finish()
    return [request.result(0) for request in requests]
