"""Random numbers by seed, step and codebook."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soundmill.models.engine.draws import Draws, Source, normals, philox, uniforms
from soundmill.models.engine.ports import Row

SOURCES: list[Source] = [uniforms, normals]
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI, 0x299F31D0A4093822, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(
    counter: tuple[int, ...], key: int, expected: tuple[int, ...]
) -> None:
    assert tuple(int(word[0]) for word in philox([np.array([word]) for word in counter], key)) == expected


@pytest.mark.parametrize("source", SOURCES)
@given(
    seed=st.integers(0, 2**63 - 1),
    first=st.integers(0, 5000),
    width=st.integers(1, 40),
    steps=st.integers(1, 9),
)
def test_a_number_depends_on_seed_step_and_place_alone(
    source: Source, seed: int, first: int, width: int, steps: int
) -> None:
    whole = source(seed, 0 if first < 100 else first - 50, 120, 64)
    offset = first if first < 100 else 50
    part = source(seed, first, steps, width)
    assert part.dtype == np.float32
    assert np.array_equal(part, whole[offset : offset + steps, :width])


@pytest.mark.parametrize("source", SOURCES)
def test_seeds_steps_and_places_differ(source: Source) -> None:
    numbers = np.stack([source(seed, 0, 16, 16) for seed in range(16)])
    assert len(np.unique(numbers)) > 0.99 * numbers.size
    assert not np.array_equal(source(1, 0, 4, 4), source(2**32 + 1, 0, 4, 4))


def test_uniforms_are_uniform_and_never_one() -> None:
    numbers = uniforms(9, 0, 2000, 50)
    assert numbers.min() >= 0
    assert numbers.max() <= 1 - 2**-23
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    assert np.abs(counts / 1000 - 1).max() < 0.15  # 4.7 standard deviations


def test_normals_are_normal() -> None:
    numbers = normals(9, 0, 2000, 50).astype(np.float64).ravel()
    assert abs(numbers.mean()) < 0.015
    assert abs(numbers.std() - 1) < 0.01
    below = [float((numbers < edge).mean()) for edge in (-2, -1, 0, 1, 2)]
    assert below == pytest.approx(
        [0.5 * math.erfc(-edge / math.sqrt(2)) for edge in (-2, -1, 0, 1, 2)], abs=0.006
    )
    pairs = normals(9, 0, 2000, 50).reshape(2000, 25, 2)
    assert abs(np.corrcoef(pairs[..., 0].ravel(), pairs[..., 1].ravel())[0, 1]) < 0.02


def row(slot: int, steps: int = 0) -> Row[Any]:
    return Row(prompt=None, positions=1, max_steps=1000, slot=slot, steps=steps)


@pytest.mark.parametrize("source", SOURCES)
def test_rows_get_their_own_numbers_whenever_they_join_and_wherever_they_sit(source: Source) -> None:
    draws = Draws(width=3, device="cpu", source=source, block=8)
    draws.reserve(3)
    early, late = row(2), row(0)
    draws.seat(2, 11)
    got: dict[int, list[Any]] = {11: [], 22: []}
    for step in range(30):
        if step == 5:
            draws.seat(0, 22)
        if step == 20:
            draws.move(2, 1)
            early.slot = 1
        rows = [early, *([late] if step >= 7 else [])]  # its prompt takes two steps of the others
        draws.refill(rows)
        taken = draws.take(3).clone()
        draws.advance(3)
        for each, seed in zip(rows, (11, 22), strict=False):
            got[seed].append(taken[each.slot].numpy())
            each.steps += 1
    assert np.array_equal(np.stack(got[11]), source(11, 0, 30, 3))
    assert np.array_equal(np.stack(got[22]), source(22, 0, 23, 3))


def test_a_step_that_failed_draws_the_same_again() -> None:
    draws = Draws(width=2, device="cpu")
    draws.reserve(1)
    draws.seat(0, 5)
    draws.refill([row(0)])
    first = draws.take(1).clone()
    draws.refill([row(0)])
    assert torch.equal(draws.take(1), first)


def test_numbers_survive_another_number_of_slots() -> None:
    draws = Draws(width=2, device="cpu")
    draws.reserve(4)
    draws.seat(1, 5)
    draws.refill([row(1)])
    draws.advance(2)
    draws.reserve(2)
    assert np.array_equal(draws.take(2)[1].numpy(), uniforms(5, 1, 1, 2)[0])
