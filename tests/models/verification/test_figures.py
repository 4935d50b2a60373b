"""Figures with known answers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soundmill.models.verification.figures import as_host, compare, text_similarity

INFINITY = math.inf


def test_equal_tensors_do_not_differ() -> None:
    tensor = torch.tensor([1.0, -2.0, 0.0])
    figures = compare(tensor, tensor, "values")
    assert (figures.relative_error, figures.max_error, figures.mean_error) == (0.0, 0.0, 0.0)
    assert figures.cosine == pytest.approx(1.0)
    assert (figures.within_1_percent, figures.within_01_percent) == (1.0, 1.0)


def test_the_errors_are_those_of_their_definitions() -> None:
    reference = torch.tensor([3.0, 4.0])
    figures = compare(torch.tensor([3.0, 4.5]), reference, "values")
    assert figures.relative_error == pytest.approx(0.1)
    assert figures.max_error == pytest.approx(0.5)
    assert figures.mean_error == pytest.approx(0.25)
    assert figures.cosine == pytest.approx((9 + 18) / (5 * math.hypot(3, 4.5)))
    assert figures.within_1_percent == 0.5


def test_shares_count_what_is_near_in_proportion() -> None:
    reference = torch.full((4,), 100.0)
    figures = compare(torch.tensor([100.0, 100.05, 100.5, 102.0]), reference, "values")
    assert figures.within_01_percent == 0.5
    assert figures.within_1_percent == 0.75


@settings(deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32).filter(lambda x: abs(x) > 1e-3), min_size=1, max_size=20),
    st.floats(0.5, 2.0),
)
def test_what_is_scaled_is_off_by_its_scale_and_points_the_same_way(
    values: list[float], scale: float
) -> None:
    reference = torch.tensor(values, dtype=torch.float64)
    figures = compare(reference * scale, reference, "values")
    assert figures.relative_error == pytest.approx(abs(scale - 1), abs=1e-9)
    assert figures.cosine == pytest.approx(1.0)


def test_numbers_that_are_none_are_counted_and_spoil_nothing_else() -> None:
    reference = torch.tensor([1.0, 2.0, 3.0])
    figures = compare(torch.tensor([1.0, math.nan, INFINITY]), reference, "values")
    assert figures.unusable == 2
    assert figures.relative_error == 0.0
    assert compare(torch.full((3,), math.nan), reference, "values").unusable == 3


def test_an_infinity_that_both_have_is_no_error() -> None:
    never = torch.tensor([1.0, -INFINITY])
    assert compare(never, never, "logits").unusable == 0
    assert compare(never, torch.tensor([1.0, INFINITY]), "logits").unusable == 1


def test_silence_is_like_silence_and_unlike_noise() -> None:
    silence, noise = torch.zeros(4), torch.ones(4)
    assert compare(silence, silence, "values").cosine == 1.0
    assert compare(silence, silence, "values").relative_error == 0.0
    assert compare(noise, silence, "values").relative_error == 1.0
    assert compare(silence, noise, "values").cosine == 0.0


def test_argmax_agreement_is_that_of_the_last_dimension() -> None:
    reference = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    examined = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 2.0]])
    figures = compare(examined, reference, "logits")
    assert (figures.agreement, figures.choices) == (0.75, 4)


def test_codes_are_equal_or_not() -> None:
    figures = compare(torch.tensor([[1, 2], [3, 5]]), torch.tensor([[1, 2], [3, 4]]), "codes")
    assert (figures.agreement, figures.choices, figures.relative_error) == (0.75, 4, None)


def test_a_free_run_parts_at_the_first_step_that_differs() -> None:
    reference = torch.tensor([[1, 1], [2, 2], [3, 3]])
    assert compare(reference, reference, "tokens").first_divergence is None
    assert compare(torch.tensor([[1, 1], [2, 9], [3, 3]]), reference, "tokens").first_divergence == 1
    assert compare(reference[:2], reference, "tokens").first_divergence == 2
    assert compare(reference[:0], reference, "tokens").first_divergence == 0


def test_spelled_tokens_are_compared_by_their_letters() -> None:
    figures = compare(
        torch.tensor([97, 98, 99, 120]), torch.tensor([97, 98, 99, 100]), "tokens",
        lambda tokens: "".join(map(chr, tokens.tolist())),
    )  # fmt: skip
    assert figures.similarity == pytest.approx(0.75)
    assert text_similarity("", "") == 1.0


def test_a_copy_for_the_host_is_fp32_or_int64_and_a_copy() -> None:
    tensor = torch.ones(2)
    host = as_host(tensor)
    tensor.zero_()
    assert host.tolist() == [1.0, 1.0]
    assert as_host(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert as_host(torch.ones(1, dtype=torch.int16)).dtype == torch.int64


def test_what_does_not_apply_is_left_out_of_json() -> None:
    figures = compare(torch.tensor([1]), torch.tensor([1]), "codes").as_json()
    assert figures == {"size": 1, "unusable": 0, "agreement": 1.0, "choices": 1}
