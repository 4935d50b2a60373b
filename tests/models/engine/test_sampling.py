"""Sampling on the card against its definition in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soundmill.models.engine.draws import uniforms
from soundmill.models.engine.sampling import GREEDY, Sampler, Sampling, penalize

V = 12


def likely(logits: Any, rules: Sampling, seen: Any = None) -> Any:
    """The probabilities after all rules, in double precision, by their definitions."""
    logits = np.asarray(logits, dtype=np.float64)
    if seen is not None:
        penalty = rules.repetition_penalty
        logits = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    if rules.temperature == 0:
        return np.eye(len(logits))[int(np.argmax(logits))]
    logits = logits / rules.temperature
    if rules.top_k is not None and rules.top_k < len(logits):
        logits = np.where(logits >= np.sort(logits)[-rules.top_k], logits, -np.inf)
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    if rules.top_p < 1:
        order = np.argsort(-chances, kind="stable")
        before = np.cumsum(chances[order]) - chances[order]
        chances = np.where(chances >= chances[order][before < rules.top_p].min(), chances, 0)
        chances /= chances.sum()
    return chances


def sampler(slots: int, **changes: Any) -> Sampler:
    made = Sampler(**{"vocabulary": V, "device": "cpu", **changes})
    made.reserve(slots)
    return made


RULES = [
    Sampling(),
    Sampling(temperature=0.7),
    Sampling(temperature=1.7, top_k=5),
    Sampling(top_k=1),
    Sampling(top_p=0.6),
    Sampling(top_k=6, top_p=0.8, temperature=0.9),
    GREEDY,
    Sampling(repetition_penalty=1.4, top_k=4),
]


def test_each_row_follows_its_own_rules() -> None:
    count = 4000
    logits = torch.randn(len(RULES), V, generator=torch.Generator().manual_seed(1)) * 2
    seen = torch.rand(len(RULES), V, generator=torch.Generator().manual_seed(2)) < 0.4
    drawing = sampler(len(RULES))
    for slot, rules in enumerate(RULES):
        drawing.set(slot, rules)
    draws = torch.from_numpy(uniforms(3, 0, count, len(RULES)))
    chosen = torch.stack([drawing.draw(logits, draws[step], seen=seen) for step in range(count)])
    for slot, rules in enumerate(RULES):
        found = np.bincount(chosen[:, slot].numpy(), minlength=V) / count
        expected = likely(logits[slot].numpy(), rules, seen[slot].numpy())
        assert found == pytest.approx(expected, abs=0.035), rules
        assert not found[expected == 0].any(), rules


@given(
    logits=st.lists(st.floats(-8, 8, width=16), min_size=V, max_size=V),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.sampled_from([None, 1, 3, 8, V]),
    top_p=st.sampled_from([0.25, 0.7, 1.0]),
    uniform=st.integers(0, 2**23 - 1),
)
def test_a_draw_inverts_the_cumulative_distribution_in_the_order_of_the_ids(
    logits: list[float], temperature: float, top_k: int | None, top_p: float, uniform: int
) -> None:
    rules = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    drawing = sampler(1)
    drawing.set(0, rules)
    u = uniform / 2**23
    chosen = int(drawing.draw(torch.tensor([logits]), torch.tensor([u], dtype=torch.float32)))
    expected = likely(logits, rules)
    reached = np.cumsum(expected)
    assert expected[chosen] > 0
    assert reached[chosen] - expected[chosen] <= u + 1e-5
    assert reached[chosen] >= u - 1e-5


def test_what_is_not_allowed_never_comes_and_a_row_without_numbers_harms_nobody() -> None:
    drawing = sampler(3)
    for slot in range(3):
        drawing.set(slot, Sampling(temperature=2.0))
    logits = torch.zeros(3, V)
    logits[0, V - 3 :] = -torch.inf
    logits[1] = torch.nan
    for step in range(200):
        chosen = drawing.draw(logits, torch.from_numpy(uniforms(step, 0, 1, 3)[0]))
        assert chosen[0] < V - 3
        assert chosen[1] == 0
    last = drawing.draw(logits, torch.full((3,), 1 - 2**-23))
    assert last.tolist() == [V - 4, 0, V - 1]


def test_ties_are_decided_by_values_and_not_by_the_order_of_a_sort() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0, 3.0, 1.0, 1.0, -1.0, 3.0, 0.0, 0.0, 0.0, 0.0]])
    drawing = sampler(1)
    drawing.set(0, GREEDY)
    assert drawing.draw(logits, torch.tensor([0.99])).item() == 1
    drawing.set(0, Sampling(top_k=4))  # the fourth is as likely as two others
    chosen = {int(drawing.draw(logits, torch.tensor([u / 200]))) for u in range(200)}
    assert chosen == {0, 1, 3, 4, 5, 7}
    drawing.set(0, Sampling(top_p=0.1))
    assert {int(drawing.draw(logits, torch.tensor([u / 50]))) for u in range(50)} == {1, 3, 7}


def test_a_temperature_near_zero_is_greedy_and_the_penalty_holds_there_too() -> None:
    logits = torch.tensor([[3.0, 2.9, *[-50.0] * (V - 2)]])
    drawing = sampler(1)
    drawing.set(0, Sampling(temperature=1e-30))
    assert drawing.draw(logits, torch.tensor([0.9])).item() == 0
    drawing.set(0, Sampling(temperature=0.0, repetition_penalty=2.0))
    assert drawing.draw(logits, torch.tensor([0.9]), seen=torch.arange(V)[None] == 0).item() == 1


def test_finding_a_few_is_the_same_as_sorting_all() -> None:
    generator = torch.Generator().manual_seed(4)
    few = sampler(4, ranks=6)
    full = sampler(4)
    for slot, rules in enumerate(
        [Sampling(top_k=6), Sampling(top_k=2, top_p=0.5), GREEDY, Sampling(temperature=0.8)]
    ):
        few.set(slot, rules)
        full.set(slot, rules)
    for step in range(300):
        logits = torch.randn(4, V, generator=generator)
        draws = torch.from_numpy(uniforms(step, 0, 1, 4)[0])
        assert torch.equal(few.draw(logits, draws), full.draw(logits, draws))


def test_a_draw_does_not_depend_on_the_other_rows() -> None:
    logits = torch.randn(16, 2051, generator=torch.Generator().manual_seed(5)) * 3
    draws = torch.from_numpy(uniforms(1, 0, 1, 16)[0])
    drawing = sampler(16, vocabulary=2051, ranks=64)
    for slot in range(16):
        drawing.set(slot, Sampling(temperature=0.9, top_k=50))
    together = drawing.draw(logits, draws)
    for slot in range(16):
        drawing.move(slot, 0)
        assert drawing.draw(logits[slot : slot + 1], draws[slot : slot + 1]) == together[slot]


def test_the_penalty_is_that_of_its_paper() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalize(logits, seen, torch.tensor([2.0])).tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_a_cleared_slot_is_greedy_and_rules_survive_another_number_of_slots() -> None:
    logits = torch.arange(V).float().repeat(2, 1)
    drawing = sampler(2)
    drawing.set(0, Sampling(temperature=100.0))
    drawing.set(1, Sampling(temperature=100.0))
    drawing.reserve(3)
    assert drawing.draw(logits, torch.tensor([0.0, 0.0])).tolist() == [0, 0]
    drawing.clear(1)
    assert drawing.draw(logits, torch.tensor([0.0, 0.0])).tolist() == [0, V - 1]


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (Sampling(temperature=-1.0), "temperature: it is 0"),
        (Sampling(temperature=float("nan")), "temperature: it is 0"),
        (Sampling(temperature=float("inf")), "temperature: it is 0"),
        (Sampling(temperature=0.0, repetition_penalty=-1.0), "repetition_penalty: more than 0"),
        (Sampling(top_k=0), "top_k: at least 1"),
        (Sampling(top_k=7), "top_k: at most 6 here"),
        (Sampling(top_p=0.0), "top_p: more than 0"),
        (Sampling(top_p=0.5), "top_p: only together with a top_k of at most 6"),
        (Sampling(repetition_penalty=0.0), "repetition_penalty: more than 0"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(rules: Sampling, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sampler(1, ranks=6).check(rules)
    with pytest.raises(ValueError, match="top_p: it is not offered here"):
        sampler(1, nucleus=False).check(Sampling(top_p=0.5))
