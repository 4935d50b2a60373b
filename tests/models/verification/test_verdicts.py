"""What is asked of figures, and what is said of those that miss it."""

from __future__ import annotations

import pytest

from soundmill.models.verification.figures import Figures
from soundmill.models.verification.limits import GENERAL, PUBLISHED, ROUNDING, SHORTENED, Limits
from soundmill.models.verification.verdicts import asked_of, judge, worst_of


def figures(error: float = 0.0, cosine: float = 1.0, **more: float) -> Figures:
    return Figures(size=10, relative_error=error, cosine=cosine, **more)  # type: ignore[arg-type]


def test_the_published_limits_are_those_that_are_published() -> None:
    assert (PUBLISHED.relative_error, PUBLISHED.cosine, PUBLISHED.agreement) == (0.01, 0.9999, 0.97)
    assert ROUNDING.relative_error < PUBLISHED.relative_error < SHORTENED.relative_error
    assert all(limits.source for several in GENERAL.values() for limits in several)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (figures(error=0.011), "relative error 1.10% in short; allowed is below 1.00% (published)"),
        (figures(cosine=0.9998), "cosine 0.999800 in short; allowed is above 0.9999 (published)"),
        (figures(agreement=0.96, choices=100), "agreement 96.00% of 100; allowed is 97% (published) or more"),
        (figures(error=float("nan")), "relative error nan% in short; allowed is below 1.00% (published)"),
        (figures(unusable=3), "3 of 10 numbers are NaN or infinite (short)"),
    ],
)
def test_each_limit_that_is_missed_is_named_with_its_figure(found: Figures, words: str) -> None:
    assert judge({"short": found}, [PUBLISHED]) == (words,)


def test_what_is_just_inside_passes() -> None:
    found = figures(error=0.0099, cosine=0.99991, agreement=0.97, choices=100)
    assert judge({"short": found}, [PUBLISHED]) == ()


def test_an_error_in_one_case_is_not_hidden_by_the_others() -> None:
    cases = {"short": figures(error=0.02), "long": figures()}
    assert judge(cases, [PUBLISHED, ROUNDING]) == (
        "relative error 2.00% in short; allowed is below 1.00% (published), 0.01% (rounding)",
    )
    assert worst_of(cases).relative_error == 0.02


def test_agreement_counts_over_all_cases() -> None:
    """A case of ten choices cannot miss less than a tenth."""
    cases = {"short": figures(agreement=0.9, choices=10), "long": figures(agreement=1.0, choices=90)}
    assert judge(cases, [PUBLISHED]) == ()


def test_a_component_may_state_limits_of_its_own() -> None:
    own = Limits(name="own", relative_error=0.5, cosine=0.5, agreement=0.5, source="here")
    assert asked_of({"fp32": [own]}, "fp32") == [own]
    assert asked_of({"fp32": [own]}, "bf16") == GENERAL["bf16"]


def test_the_limits_that_others_publish_can_be_asked_for_alone() -> None:
    assert list(asked_of({}, "fp32", published_only=True)) == [PUBLISHED]
    assert list(asked_of({}, "bf16", published_only=True)) == [SHORTENED], "nobody publishes others"
