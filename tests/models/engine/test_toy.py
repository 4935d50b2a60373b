"""The contract's first client: a tiny Llama of random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from soundmill.models.device import Device
from soundmill.models.engine.sampling import GREEDY, Sampling

from ...plugins.toy import STOP, Babbler, Prompt, numbers
from ..slot_contract import Case, SlotContract


def case(*ids: int, max_steps: int = 24, **changes: Any) -> Case:
    prompt = Prompt(ids=ids, **changes)
    return Case(prompt=prompt, positions=len(ids), max_steps=max_steps)


class TestBabbler(SlotContract):
    """Sampled and greedy rows, with prompts from 1 to 40 numbers."""

    @pytest.fixture
    def model(self, device: Device) -> Babbler:
        return Babbler(device)

    def cases(self) -> Sequence[Case]:
        return [
            case(5, 9, 13, 2, seed=1),
            case(*range(1, 41), seed=2, sampling=Sampling(top_k=8, top_p=0.9, temperature=1.5)),
            case(3, seed=3, sampling=Sampling(temperature=2.0)),
            case(7, 7, 7, seed=4, never=(STOP,)),
            case(*range(20, 3, -1), seed=5, sampling=GREEDY, never=(STOP,)),
            case(11, 12, seed=2**53 - 1, never=(STOP,)),
            case(*range(10, 35), seed=0, max_steps=40, never=(STOP,)),
        ]

    def stops_at_once(self) -> Case:
        return case(4, 5, 6, never=tuple(range(1, 64)))

    def stretched(self, case: Case, max_steps: int) -> Case:
        return replace(case, prompt=replace(case.prompt, never=(STOP,)), max_steps=max_steps)

    def frames(self, released: Any) -> list[int]:
        return numbers(released)
