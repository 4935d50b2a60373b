"""MOSS as a slot model: the contract, voices that are shared, memory, and what an NPU would be asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from soundmill.models.device import Device
from soundmill.models.engine.draws import uniforms
from soundmill.models.engine.sampling import GREEDY, Sampling
from soundmill.models.moss.language_model import LanguageModel
from soundmill.models.moss.slots import MossSlots, Prompt

from ..dispatch_audit import audited
from ..slot_contract import Case, Rows, SlotContract
from .conftest import load_model

CONTEXT = 80
WILD = Sampling(temperature=1.0, top_k=20, top_p=0.9, repetition_penalty=1.2)
COIN = Sampling(temperature=1.0)


def level(folder: Path) -> LanguageModel:
    """A model whose gate is a fair coin, so that the seed alone says when a row stops."""
    model = load_model(folder)
    model._gate = torch.zeros_like(model._gate)
    return model


@pytest.fixture(scope="module")
def level_model(folder: Path) -> LanguageModel:
    return level(folder)


@cache
def seed_that_stops(step: int, nth: int = 0) -> int:
    """A seed whose coin falls on stop at this step for the first time."""
    found = []
    for seed in range(100_000):
        stops = uniforms(seed, 0, step + 1, 1)[:, 0] >= 0.5
        if stops[step] and not stops[:step].any():
            found.append(seed)
            if len(found) > nth:
                return seed
    raise AssertionError("no such seed")


def rows_of(length: int, seed: int, clip: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.full((length, 9), 64)
    rows[:, 0] = torch.randint(300, 600, (length,), generator=generator)
    if clip:
        rows[5 : 5 + clip, 0] = 8
        rows[5 : 5 + clip, 1:] = torch.randint(0, 64, (clip, 8), generator=generator)
    return rows


def prompt_of(length: int, seed: int, stop: int, **more: Any) -> Prompt:
    options: dict[str, Any] = {"codebooks": 8, "gate": COIN, "audio": WILD} | more
    return Prompt(
        rows=rows_of(length, length, clip=min(6, length - 6)), seed=seed_that_stops(stop, seed), **options
    )


def case_of(prompt: Prompt, max_steps: int = 20) -> Case:
    return Case(prompt=prompt, positions=len(prompt.rows), max_steps=max_steps)


def make_slots(model: LanguageModel, device: Device, **options: Any) -> MossSlots:
    given = {"context": CONTEXT, "graphs": False, "voices": 2, "longest_prefix": 40} | options
    return MossSlots(model, device, **given)


class TestContract(SlotContract):
    """The suite of all slot models."""

    @pytest.fixture
    def model(self, level_model: LanguageModel, device: Device) -> MossSlots:
        return make_slots(level_model, device)

    def cases(self) -> Sequence[Case]:
        voice = rows_of(12, 99, clip=5)
        tails = [torch.cat((voice, rows_of(length, length))) for length in (7, 11)]
        shared = [
            Prompt(
                rows=rows, shared=12, voice="one", codebooks=8, gate=COIN, audio=WILD, seed=seed_that_stops(n)
            )
            for n, rows in zip((9, 6), tails, strict=True)
        ]
        return [
            case_of(prompt_of(20, 0, 12)),
            case_of(shared[0]),
            case_of(prompt_of(33, 1, 4, codebooks=5)),
            case_of(prompt_of(9, 2, 8)),
            case_of(shared[1]),
            case_of(prompt_of(26, 3, 11, audio=GREEDY)),
            case_of(prompt_of(14, 4, 7, audio=Sampling(temperature=1.5, top_k=None))),
        ]

    def stops_at_once(self) -> Case:
        return case_of(prompt_of(11, 0, 0))

    def stretched(self, case: Case, max_steps: int) -> Case:
        prompt = Prompt(
            rows=case.prompt.rows, codebooks=8, gate=GREEDY, audio=case.prompt.audio, seed=case.prompt.seed
        )
        return Case(prompt=prompt, positions=case.positions, max_steps=max_steps)

    def frames(self, released: Any) -> Any:
        return released.codes.tolist()


def voice_case(tail: int, seed: int, voice: str | None = "v", prefix: int = 30) -> Case:
    rows = torch.cat((rows_of(prefix, 7, clip=8), rows_of(tail, tail)))
    prompt = Prompt(rows=rows, shared=prefix, voice=voice, codebooks=8, gate=GREEDY, audio=WILD, seed=seed)
    return case_of(prompt, max_steps=6)


def run(slots: MossSlots, device: Device, cases: Sequence[Case], count: int) -> list[Any]:
    rows = Rows(slots, device, count)
    requests = [rows.ask(case) for case in cases]
    rows.finish()
    return [request.result(0).value.codes.tolist() for request in requests]


class _Counted:
    """Counts the positions that go through the trunk."""

    def __init__(self, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.positions = 0
        trunk = model.trunk

        def counted(x: torch.Tensor, *rest: Any) -> Any:
            self.positions += x.shape[0] * x.shape[1] if x.shape[1] > 1 else 0
            return trunk(x, *rest)

        monkeypatch.setattr(model, "trunk", counted)


def test_a_voice_is_prefilled_once_for_all_its_chunks(
    level_model: LanguageModel, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [voice_case(tail, tail) for tail in (5, 9, 7, 6)]
    apart = run(
        make_slots(level_model, device, voices=0), device,
        [voice_case(tail, tail, voice=None) for tail in (5, 9, 7, 6)], 4,
    )  # fmt: skip
    counted = _Counted(level_model, monkeypatch)

    together = run(make_slots(level_model, device), device, cases, 4)

    assert together == apart
    assert counted.positions < 2 * 30 + 4 * 9


def test_voices_take_the_place_of_the_one_unused_longest(level_model: LanguageModel, device: Device) -> None:
    slots = make_slots(level_model, device)
    for voice in ("a", "b", "a", "c"):
        run(slots, device, [voice_case(5, 1, voice=voice)], 1)

    assert set(slots._prefixes._held) == {"a", "c"}


def test_a_voice_that_is_too_long_to_keep_is_spoken_all_the_same(
    level_model: LanguageModel, device: Device
) -> None:
    cases = [voice_case(5, seed, prefix=60) for seed in (1, 2)]
    expected = run(
        make_slots(level_model, device), device, [voice_case(5, s, voice=None, prefix=60) for s in (1, 2)], 2
    )
    slots = make_slots(level_model, device)

    assert run(slots, device, cases, 2) == expected
    assert len(slots._prefixes) == 0


def test_a_row_that_leads_may_be_cancelled(level_model: LanguageModel, device: Device) -> None:
    rows = Rows(make_slots(level_model, device), device, 3)
    rows.lane._tokens = 8
    requests = [rows.ask(voice_case(5, seed)) for seed in (1, 2, 3)]
    rows.turn()
    requests[0].cancel()
    rows.finish()

    expected = run(make_slots(level_model, device), device, [voice_case(5, s) for s in (2, 3)], 2)
    assert [r.result(0).value.codes.tolist() for r in requests[1:]] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fixed_shapes_give_the_same_bits_in_any_company(
    folder: Path, device: Device, dtype: torch.dtype
) -> None:
    model = load_model(folder, dtype=dtype)
    model._gate = torch.zeros_like(model._gate)
    slots = make_slots(model, device, fixed_shapes=True, longest_prefix=130, context=120)
    cases = [voice_case(tail, tail, prefix=70) for tail in (5, 9, 7)]

    def fixed(chosen: Sequence[Case]) -> list[Any]:
        rows = Rows(slots, device, 4)
        rows.lane._fixed = True
        requests = [rows.ask(case) for case in chosen]
        rows.finish()
        return [request.result(0).value.codes.tolist() for request in requests]

    assert fixed(cases) == [fixed([case])[0] for case in cases]


def test_the_memory_of_a_slot_is_what_it_takes(level_model: LanguageModel, device: Device) -> None:
    slots = make_slots(level_model, device)
    slots.reserve(2)
    before = _bytes_of(slots)
    slots.reserve(5)
    config = level_model.config.decoder
    scratch = 2 * config.local_layers * 9 * config.hidden * 4

    per_slot = (_bytes_of(slots) - before) / 3

    # The rules of the samplers, 60 bytes, are not counted.
    assert slots.bytes_per_slot == pytest.approx(per_slot + scratch, abs=64)


def _bytes_of(slots: MossSlots) -> int:
    caches = [tensor for layer in slots._cache.layers for tensor in (layer.keys, layer.values)]
    draws = [slots._draws._block, slots._draws._counters]
    return sum(tensor.nbytes for tensor in (*caches, *draws, *slots._states(), slots._cache.positions))


def test_the_published_size_takes_what_the_arithmetic_says(folder: Path) -> None:
    # 2 · 12 layers · 768 numbers for each position, and less than 2 MB beside.
    per_position = 2 * 12 * 768 * 2
    config = load_model(folder).config.decoder

    assert 2 * config.layers * config.hidden * 4 == 2 * 4 * 64 * 4
    assert per_position * 1280 < 65e6


def test_few_ranks_draw_the_same_codes_as_all(folder: Path, device: Device) -> None:
    model = level(folder)
    cases = [voice_case(tail, tail) for tail in (5, 9, 7)]
    few, all_ranks = (make_slots(model, device) for _ in range(2))
    all_ranks._few = None

    assert run(few, device, cases, 2) == run(all_ranks, device, cases, 2)


def test_rehearsing_leaves_nothing_behind(level_model: LanguageModel, device: Device) -> None:
    slots = make_slots(level_model, device)
    with torch.inference_mode():
        slots.reserve(1)
        slots.rehearse(1024)

    assert all(not state.any() for state in slots._states())
    assert run(slots, device, [voice_case(5, 1)], 1) == run(
        make_slots(level_model, device), device, [voice_case(5, 1)], 1
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_step_asks_nothing_of_an_npu_that_it_does_not_have(
    folder: Path, device: Device, dtype: torch.dtype
) -> None:
    model = load_model(folder, dtype=dtype, form="plain")
    model._gate = torch.zeros_like(model._gate)
    slots = make_slots(model, device, graphs=False)
    rows = Rows(slots, device, 3)
    for case in TestContract().cases():
        rows.ask(case)
    with audited() as audit:
        rows.turn()
    audit.expect_clean(reads=True)
    with torch.inference_mode(), audited() as audit:
        slots._frame(3, slots._cache.kv_buckets[-1], 8, few=False)
    audit.expect_clean()
