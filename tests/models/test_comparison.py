"""Tensors of a file beside those that are wanted: what is told of each difference."""

from __future__ import annotations

from pathlib import Path

from soundmill.models.comparison import Wanted, compare
from soundmill.models.finding import Finding
from soundmill.models.tensor_files import StoredTensor

WANTED = [
    *(Wanted(names=(f"layers.{number}.weight",), shape=(2, 3)) for number in range(12)),
    Wanted(names=("head.weight", "embedding.weight"), shape=(5,)),
]


def stored(**changes: StoredTensor | None) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor | None] = {
        f"layers.{number}.weight": tensor(2, 3) for number in range(12)
    }
    tensors["head.weight"] = tensor(5)
    found = tensors | {name.replace("__", "."): change for name, change in changes.items()}
    return {name: entry for name, entry in found.items() if entry is not None}


def tensor(*shape: int, dtype: str = "BF16") -> StoredTensor:
    return StoredTensor(dtype=dtype, shape=shape, file=Path("model.safetensors"))


def answers(found: dict[str, StoredTensor]) -> dict[str, Finding]:
    findings = compare(found, WANTED, unread=lambda name: name.startswith("talker."))
    return {finding.question.partition(" ")[0]: finding for finding in findings}


def test_a_file_that_has_what_is_wanted_passes() -> None:
    found = answers(stored())

    assert all(finding.as_expected for finding in found.values())
    assert found["dtypes"].answer == "BF16 13"
    assert found.keys() == {"names", "shapes", "dtypes"}


def test_a_tensor_may_have_its_other_name() -> None:
    found = answers(stored(head__weight=None, embedding__weight=tensor(5)))

    assert all(finding.as_expected for finding in found.values())


def test_few_missing_tensors_are_named_one_by_one() -> None:
    found = answers(stored(layers__3__weight=None, head__weight=None))["names"]

    assert found.answer == "2 are missing and 0 unknown: head.weight, layers.3.weight"
    assert found.details == ("missing: layers.3.weight [2, 3]", "missing: head.weight [5]")


def test_many_that_are_alike_take_one_line() -> None:
    found = answers({"other.1.b": tensor(7, dtype="I8"), "head.weight": tensor(5)})["names"]

    assert found.details == ("missing: layers.*.weight [2, 3], 12 of them", "unexpected: other.1.b [7] I8")


def test_another_shape_is_told_with_the_wanted_one() -> None:
    found = answers(stored(layers__3__weight=tensor(3, 2)))["shapes"]

    assert not found.as_expected
    assert found.details == ("layers.3.weight is [3, 2], wanted [2, 3]",)


def test_a_dtype_that_is_no_number_as_it_stands_is_told() -> None:
    found = answers(stored(layers__3__weight=tensor(2, 3, dtype="F8_E4M3")))["dtypes"]

    assert found.details == ("layers.3.weight is F8_E4M3",)


def test_what_is_published_and_not_read_is_counted_and_nothing_more() -> None:
    found = answers(stored(talker__a__b=tensor(1000), talker__a__c=tensor(1000, dtype="F32")))

    assert all(finding.as_expected for finding in found.values())
    assert found["tensors"].answer == "2, 0.0 MB: talker.a.* 2"
