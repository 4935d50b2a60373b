"""Measurements on FAKE cards (see `fake_npu.py`): how they are driven, and nothing about Ascend's speed."""

from __future__ import annotations

from pathlib import Path

from ..fake_npu import in_fake_npu, npu

FOLDER = Path(__file__).resolve().parents[2] / "data" / "captioner"
MODEL = "acestep-captioner"


@in_fake_npu(cards=2, memory_mib=256)
def test_a_card_is_measured_and_its_parts_beside_the_processor() -> None:
    from soundmill.models.bench import Plan, measure

    plan = Plan(
        model=MODEL, device="npu:1", checkpoint=FOLDER, random_weights=True, dtype="fp32", slots=(1, 2), frames=(3,),
        texts=("short",), runs=1, warmup=0, graphs="off",
    )  # fmt: skip
    document = measure(plan)
    assert document["stamp"]["card"] == "npu:1"
    assert [cell["failed"] + cell["empty"] for cell in document["cells"]] == [0, 0]
    assert document["memory"]["loaded_bytes"] < document["memory"]["opened_bytes"]
    parts = measure(Plan(model=MODEL, kind="components", device="npu:1", checkpoint=FOLDER, random_weights=True,
                         dtype="fp32", seq_len=4, runs=1, graphs="off"))["components"]  # fmt: skip
    assert all(part["device_ms"]["median"] > 0 and part["cpu_ms"]["median"] > 0 for part in parts)
    assert all(part["speed_up"] > 0 for part in parts)


@in_fake_npu(cards=1, memory_mib=256)
def test_what_a_card_raises_leaves_as_a_sentence_about_the_card() -> None:
    import pytest

    from soundmill.models.bench import Plan, measure
    from soundmill.models.bench.captioner import CaptionerSubject
    from soundmill.models.errors import CardFailed, ModelUnavailable, OutOfMemory

    plan = Plan(
        model=MODEL,
        device="npu:0",
        checkpoint=FOLDER,
        random_weights=True,
        dtype="fp32",
        slots=(1,),
        frames=(2,),
    )
    load = CaptionerSubject.load
    with pytest.raises(ModelUnavailable, match=r"there is no npu:7"):
        measure(Plan(model=MODEL, device="npu:7", random_weights=True))
    npu().refuse(0)
    with pytest.raises(OutOfMemory, match=r"npu:0: .*out of memory"):
        measure(plan)

    def breaking(self: CaptionerSubject, *args: object) -> None:
        npu().break_card("NPU function error: aclrtSynchronizeStream, error code is 507035")
        load(self, *args)  # type: ignore[arg-type]

    CaptionerSubject.load = breaking  # type: ignore[method-assign, assignment]
    with pytest.raises(CardFailed, match=r"npu:0: .*507035"):
        measure(plan)
