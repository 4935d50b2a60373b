"""The language model in slots: the published tokens, alone and in any company, and the slot contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from soundmill.models.captioner.rows import CaptionRows
from soundmill.models.captioner.weights import Weights
from soundmill.models.device import Device
from soundmill.models.engine.draws import uniforms
from soundmill.models.engine.ports import Row
from soundmill.models.engine.sampling import GREEDY, Sampling

from ..dispatch_audit import audited
from ..slot_contract import Case, Rows, SlotContract
from .golden import Golden, goldens, speller, weights_on

CONTEXT = 512
FREE = Sampling(temperature=1.0, top_k=50, top_p=0.95, repetition_penalty=1.2)


def rows_of(weights: Weights, device: Device, **options: Any) -> CaptionRows:
    options = {"context": CONTEXT, "stops": speller().stops, **options}
    return CaptionRows(weights.language, device, **options)


def ids(released: Any) -> list[int]:
    return list(released.wait().tolist())


def first_logits(model: CaptionRows, golden: Golden) -> torch.Tensor:
    """The logits of the first step."""
    model.reserve(2)
    case = golden.case()
    row = Row(prompt=case.prompt, positions=case.positions, max_steps=1, slot=1)
    model.prefill([row], 1024)
    with torch.inference_mode():
        logits, _ = model._forward(2, 512)
    return logits[1].clone()


class TestCaptionRows(SlotContract):
    """Greedy and sampled rows on prompts of 105 to 291 positions, as a processor runs them."""

    each = True

    @pytest.fixture
    def model(self, weights: Weights, device: Device) -> CaptionRows:
        # The first token of another golden clip ends a row too, so that one of them stops at once. With so
        # few positions the first case reaches the last of them.
        stops = {*speller().stops, goldens()[1].new_ids[0]}
        return rows_of(weights, device, stops=stops, context=320, each=self.each)

    def cases(self) -> Sequence[Case]:
        short, middle, long = goldens()[3], goldens()[0], goldens()[2]
        return [
            middle.case(max_steps=20),  # the first four prompts fit into one turn
            middle.case(max_steps=24, sampling=FREE, seed=1),
            short.case(max_steps=16, sampling=replace(FREE, top_k=1000, top_p=1.0), seed=3),
            middle.case(max_steps=30, sampling=replace(FREE, top_k=5), seed=2**53 - 1),
            long.case(max_steps=12, sampling=replace(FREE, temperature=1.5), seed=2),
            short.case(max_steps=18),
            short.case(max_steps=24, sampling=replace(GREEDY, repetition_penalty=1.3)),
        ]

    def stops_at_once(self) -> Case:
        return goldens()[1].case()

    def stretched(self, case: Case, max_steps: int) -> Case:
        return replace(case, max_steps=max_steps)

    def frames(self, released: Any) -> list[int]:
        return ids(released)


class TestCaptionRowsOfACard(TestCaptionRows):
    """The same as a card runs them: all rows look at the same length of their caches."""

    each = False


@pytest.fixture(params=[True, False], ids=["processor", "card"])
def model(weights: Weights, device: Device, request: pytest.FixtureRequest) -> CaptionRows:
    return rows_of(weights, device, each=request.param)


@pytest.mark.parametrize("golden", goldens(), ids=lambda golden: golden.name)
def test_the_first_logits_are_the_published_ones(model: CaptionRows, golden: Golden) -> None:
    torch.testing.assert_close(first_logits(model, golden), golden.first_logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize("golden", goldens(), ids=lambda golden: golden.name)
def test_a_clip_alone_gets_the_published_tokens(model: CaptionRows, device: Device, golden: Golden) -> None:
    rows = Rows(model, device, 1)
    request = rows.ask(golden.case())
    rows.finish()

    assert ids(request.result(0).value) == golden.said(speller().stops)
    assert request.result(0).stopped == (golden.new_ids[-1] in speller().stops)


@pytest.mark.parametrize("budget", [1024, 64, 3])
def test_clips_of_different_lengths_get_the_published_tokens_together(
    model: CaptionRows, device: Device, budget: int
) -> None:
    rows = Rows(model, device, 4)
    requests = [rows.ask(golden.case()) for golden in goldens()]
    while rows.lane.busy:
        rows.lane._tokens = budget
        rows.turn()

    for request, golden in zip(requests, goldens(), strict=True):
        assert ids(request.result(0).value) == golden.said(speller().stops), golden.name


@pytest.mark.parametrize("late", [True, False])
def test_clips_that_join_late_get_the_published_tokens(
    model: CaptionRows, device: Device, late: bool
) -> None:
    rows = Rows(model, device, 3, late=late)
    requests = []
    for golden in [*goldens(), *reversed(goldens())]:
        requests.append((golden, rows.ask(golden.case())))
        rows.turn(7)
    rows.finish()

    for golden, request in requests:
        assert ids(request.result(0).value) == golden.said(speller().stops), golden.name


def test_a_prompt_never_asks_for_logits(
    model: CaptionRows, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    whole = weights.language.logits

    def counted(states: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states))
        return whole(states)

    monkeypatch.setattr(weights.language, "logits", counted)
    model.reserve(4)
    row = Row(prompt=goldens()[0].prompt(), positions=220, max_steps=4, slot=2)
    model.prefill([row], 1024)
    assert row.ready
    assert sizes == []
    model.step(4, [row])
    assert sizes == [4]


def test_draws_follow_the_model_and_a_greedy_neighbour_stays_greedy(
    model: CaptionRows, device: Device
) -> None:
    golden = goldens()[0]
    seeds = range(300)
    made = []
    rows = Rows(model, device, 8)
    sampling = Sampling(temperature=1.0, top_k=1000)
    requests = [rows.ask(golden.case(max_steps=1, sampling=sampling, seed=seed)) for seed in seeds]
    neighbour = rows.ask(golden.case())
    rows.finish()
    made = [token for request in requests for token in ids(request.result(0).value)]
    # Inverse of the cumulative distribution at the seed's first uniform number.
    cumulative = golden.first_logits.double().softmax(-1).cumsum(-1).numpy()
    expected = [
        int(np.searchsorted(cumulative, uniforms(seed, 0, 1, 1)[0, 0], side="right")) for seed in seeds
    ]
    stops = speller().stops

    assert made == [token for token in expected if token not in stops]
    assert ids(neighbour.result(0).value) == golden.said(stops)


def test_the_penalty_counts_the_prompt_and_what_was_made_and_nothing_else(
    model: CaptionRows, device: Device
) -> None:
    golden = goldens()[3]
    rows = Rows(model, device, 2)
    sampling = replace(GREEDY, repetition_penalty=1.5)
    request = rows.ask(golden.case(max_steps=8, sampling=sampling))
    rows.finish()
    made = ids(request.result(0).value)

    assert made == penalised(model, golden, 1.5, 8)
    assert made != golden.new_ids[:8]


def penalised(model: CaptionRows, golden: Golden, penalty: float, steps: int) -> list[int]:
    """The same by hand: the logits of a growing prompt, the penalty, the likeliest id."""
    made: list[int] = []
    for _ in range(steps):
        longer = replace(golden, input_ids=[*golden.input_ids, *made])
        logits = first_logits(model, longer)
        seen = torch.tensor(sorted(set(longer.input_ids)))
        logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        made.append(int(logits.argmax()))
    return made


def test_the_length_of_the_caches_that_a_step_sees_changes_nothing(weights: Weights, device: Device) -> None:
    for context, reproducible in ((CONTEXT, True), (2048, False), (2048, True)):
        rows = Rows(
            rows_of(weights, device, context=context, reproducible=reproducible, each=False), device, 4
        )
        requests = [rows.ask(golden.case()) for golden in goldens()]
        rows.finish()
        for request, golden in zip(requests, goldens(), strict=True):
            assert ids(request.result(0).value) == golden.said(speller().stops)


@pytest.mark.parametrize("each", [True, False])
def test_reproducible_rows_in_bf16_are_equal_to_the_last_bit_in_any_company(
    device: Device, each: bool
) -> None:
    model = rows_of(weights_on(device, torch.bfloat16), device, reproducible=True, each=each)
    lane = {"fixed_bucket": True}
    alone = [made_by(model, device, [golden], **lane)[0] for golden in goldens()]

    assert made_by(model, device, goldens(), **lane) == alone


def made_by(
    model: CaptionRows, device: Device, clips: Sequence[Golden], *, fixed_bucket: bool
) -> list[list[int]]:
    rows = Rows(model, device, 4)
    rows.lane._fixed = fixed_bucket
    requests = [
        rows.ask(clip.case(sampling=FREE if place % 2 else GREEDY, seed=place))
        for place, clip in enumerate(clips)
    ]
    if len(clips) == 1:  # the same draws as in company
        place = goldens().index(clips[0])
        rows = Rows(model, device, 4)
        rows.lane._fixed = fixed_bucket
        requests = [rows.ask(clips[0].case(sampling=FREE if place % 2 else GREEDY, seed=place))]
    rows.finish()
    return [ids(request.result(0).value) for request in requests]


def test_a_rehearsal_leaves_nothing_behind(model: CaptionRows, device: Device) -> None:
    model.reserve(1)
    model.rehearse(1024)
    rows = Rows(model, device, 1)
    request = rows.ask(goldens()[0].case())
    rows.finish()

    assert ids(request.result(0).value) == goldens()[0].new_ids


def test_a_slot_costs_what_it_says(weights: Weights, device: Device) -> None:
    shape = weights.language.shape
    caches = 2 * shape.layers * shape.kv_heads * shape.head_dim * 4
    for context in (CONTEXT, 2048):
        cost = rows_of(weights, device, context=context).bytes_per_slot
        assert caches * context <= cost <= caches * (context + 8) + 8 * context + 10 * shape.vocabulary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_prompts_and_steps_ask_for_nothing_that_an_npu_lacks(device: Device, dtype: torch.dtype) -> None:
    model = rows_of(weights_on(device, dtype), device, each=False)
    model.reserve(4)
    made = [
        Row(prompt=golden.prompt(sampling=sampling), positions=len(golden.input_ids), max_steps=4, slot=slot)
        for slot, (golden, sampling) in enumerate(zip(goldens(), (GREEDY, FREE, GREEDY, FREE), strict=True))
    ]
    with audited() as audit:
        while not all(row.ready for row in made):
            model.prefill([row for row in made if not row.ready], 150)
    audit.expect_clean(reads=True)
    with audited() as audit:
        model.step(4, made[:1])
        model.step(4, made)
    audit.expect_clean()
    with audited() as audit:
        model.move(1, 3)
        model.release(made[0], 1)
    audit.expect_clean()
