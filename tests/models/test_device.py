"""Cards: their names, and what a process sees of them."""

from __future__ import annotations

import pytest

from soundmill.models.device import Card

# A vendor's library is imported by name only; threads that wait for each other sleep.
BY_NAME = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("cpu:0", Card("cpu", 0)),
        ("npu:12", Card("npu", 12)),
        ("cuda", Card("cuda", 0)),
        (" cuda:3 ", Card("cuda", 3)),
    ],
)
def test_a_card_is_read_from_its_name(text: str, card: Card) -> None:
    assert Card.parse(text) == card


@pytest.mark.parametrize("text", ["", "gpu:0", "cuda:", "cuda:-1", "npu:1000", "cpu:0,cpu:1", "CPU:0"])
def test_another_name_is_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match="names no card; write npu:0, cuda:1 or cpu:0"):
        Card.parse(text)


@pytest.mark.parametrize("name", ["cpu:0", "cuda:7", "npu:15"])
def test_a_card_writes_its_name_as_it_is_read(name: str) -> None:
    assert str(Card.parse(name)) == name


def test_a_process_sees_one_card() -> None:
    assert Card("cuda", 3).environment({}) == {"CUDA_VISIBLE_DEVICES": "3"} | BY_NAME
    assert Card("npu", 2).environment({})["ASCEND_RT_VISIBLE_DEVICES"] == "2"
    assert Card("cpu", 5).environment({}) == BY_NAME


def test_the_choice_of_the_card_is_ours_and_everything_else_that_is_set_is_kept() -> None:
    present = {"ASCEND_RT_VISIBLE_DEVICES": "0,1,2", "TASK_QUEUE_ENABLE": "2"}
    added = Card("npu", 1).environment(present)
    assert added["ASCEND_RT_VISIBLE_DEVICES"] == "1"
    assert "TASK_QUEUE_ENABLE" not in added
    assert added["PYTORCH_NPU_ALLOC_CONF"] == "expandable_segments:True"


def test_an_npu_gets_what_has_to_be_set_before_its_library_is_imported() -> None:
    assert Card("npu", 3).environment({}) == BY_NAME | {
        "ASCEND_RT_VISIBLE_DEVICES": "3",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "TASK_QUEUE_ENABLE": "1",
        "ASCEND_GLOBAL_LOG_LEVEL": "3",
        "ASCEND_SLOG_PRINT_TO_STDOUT": "0",
    }


def test_the_two_variables_of_the_allocator_are_never_set_together() -> None:
    added = Card("npu", 0).environment({"PYTORCH_ALLOC_CONF": "expandable_segments:True"})
    assert "PYTORCH_NPU_ALLOC_CONF" not in added


@pytest.mark.parametrize(
    ("card", "present", "place"),
    [
        ("npu:3", {"ASCEND_RT_VISIBLE_DEVICES": "3"}, 0),
        ("npu:0", {"ASCEND_RT_VISIBLE_DEVICES": "0"}, 0),
        ("npu:1", {"ASCEND_RT_VISIBLE_DEVICES": "4,5"}, 1),
        ("cuda:2", {}, 2),
        ("cuda:2", {"CUDA_VISIBLE_DEVICES": " 2"}, 0),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-1a2b"}, 0),
        ("cpu:5", {}, 5),
    ],
)
def test_a_process_that_sees_one_card_knows_it_as_the_first(
    card: str, present: dict[str, str], place: int
) -> None:
    assert Card.parse(card).place(present) == place
