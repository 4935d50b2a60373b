"""The whole of it on tiny checkpoints, on the processor and on FAKE cards (see `fake_npu.py`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..fake_npu import in_fake_npu
from ..verified import failed
from .planting import FOLDERS, larger, lines_of, planted

if TYPE_CHECKING:
    from soundmill.models.verification.verification import Verification

MODELS = {"csm": "csm-1b", "captioner": "acestep-captioner", "aligner": "mms-300m-aligner"}


def verified(family: str, scratch: Path, *examined: Any, tell: Any = None, **order: Any) -> Verification:
    """Verify a family's tiny checkpoint on some seats against the processor."""
    from soundmill.models.verification.material import gather
    from soundmill.models.verification.seats import Seat
    from soundmill.models.verification.verification import Order, verify

    fields: dict[str, Any] = {
        "model": MODELS[family], "folder": FOLDERS[family], "reference": Seat(card="cpu", threads=1),
        "examined": examined, "material": gather(scratch), "end_to_end": False,
    }  # fmt: skip
    return verify(Order(**fields | order), *([tell] if tell else []))


def test_other_threads_agree_and_everything_is_in_one_json(tmp_path: Path) -> None:
    from soundmill.models.place import ModelOptions
    from soundmill.models.verification.seats import Seat

    told: list[str] = []
    seats = Seat(card="cpu", threads=1), Seat(card="cpu", threads=2)
    options = ModelOptions(dtype="bf16")
    found = verified("captioner", tmp_path, *seats, options=options, tell=told.append)

    assert [side.failed for side in found.sides] == [[], []]
    assert found.ok
    told_of = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert [(device["threads"], device["dtype"]) for device in told_of["devices"]] == [
        (1, "bf16"),
        (2, "bf16"),
    ]
    for device in told_of["devices"]:
        assert {part["dtype"] for part in device["components"]} == {"fp32", "bf16"}
        assert {"torch", "transformers", "soundmill", "checkpoint", "driver", "cann"} <= device[
            "stamp"
        ].keys()
        assert device["stamp"]["checkpoint"] == "captioner"
    assert any("parameters need about" in line for line in told), "before anything is loaded"


def test_an_error_on_one_seat_fails_that_one_and_not_the_other(tmp_path: Path) -> None:
    from soundmill.models.verification.seats import Seat

    folder = planted("aligner", tmp_path / "other", {"lm_head.weight": larger})
    seats = Seat(card="cpu", threads=1, folder=folder), Seat(card="cpu", threads=1)
    found = verified("aligner", tmp_path, *seats)

    assert [side.ok for side in found.sides] == [False, True]
    assert found.sides[0].failed[0].startswith("emissions: emissions in fp32: relative error 1.")
    assert not found.ok


def test_a_checkpoint_that_the_reference_cannot_load_ends_it_with_a_sentence(tmp_path: Path) -> None:
    from soundmill.models.verification.seats import Seat

    found = verified("captioner", tmp_path, Seat(card="cpu", threads=1), folder=FOLDERS["aligner"])

    assert not found.ok
    assert found.reference.failure is not None
    assert "holds a 'wav2vec2' model, not 'qwen2_5_omni'" in found.reference.failure
    assert found.sides[0].lines == []
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize("family", MODELS)
def test_what_the_handler_is_asked_are_arguments_of_a_job(family: str, tmp_path: Path) -> None:
    from importlib import import_module

    from soundmill.models.verification.material import gather
    from soundmill.storage.direct import fields_of

    material = gather(tmp_path)
    for trial in import_module(f"soundmill.models.{family}.components").trials(material):
        asked = fields_of(MODELS[family], trial.fields)
        assert asked["audio" if family != "csm" else "text"]
        if trial.longest_s is not None:
            assert 2 < trial.longest_s < 60


# -- on fake cards -------------------------------------------------------------------------------------


@in_fake_npu(cards=1, memory_mib=256)
def test_a_fake_card_agrees_with_the_processor_end_to_end(tmp_path: Path) -> None:
    from soundmill.models.verification.seats import Seat

    [side] = verified("captioner", tmp_path, Seat(card="npu:0"), end_to_end=True).sides

    assert side.failed == []
    assert side.stamp is not None
    assert side.stamp.card == "npu:0"
    assert {line.dtype for line in side.lines} == {"fp32", "bf16"}
    [hearing] = side.hearings
    assert hearing.examined.card == "npu:0"
    assert hearing.examined.text
    assert hearing.reference is not None
    assert hearing.similarity is not None


@in_fake_npu(cards=1, memory_mib=256)
def test_an_aligner_is_compared_in_fp32_only_whatever_the_card_has(tmp_path: Path) -> None:
    from soundmill.models.verification.seats import Seat

    [side] = verified("aligner", tmp_path, Seat(card="npu:0")).sides

    assert side.failed == []
    assert side.dtype == "fp32"
    assert {line.dtype for line in side.lines} == {"fp32"}


@in_fake_npu(cards=1, memory_mib=256)
def test_csm_on_a_fake_card_agrees_and_a_planted_error_is_found_there(tmp_path: Path) -> None:
    name = "backbone_model.layers.0.self_attn.v_proj.weight"
    wrong = planted("csm", tmp_path / "other", {name: larger})

    assert failed(lines_of("csm", FOLDERS["csm"], card="npu:0")) == {}
    found = failed(lines_of("csm", wrong, card="npu:0"))
    assert {part: tensors[0] for part, tensors in found.items()} == {"backbone": "layer 0"}


@in_fake_npu(cards=1, memory_mib=64)
def test_a_fake_card_that_runs_out_of_memory_or_breaks_is_told_in_sentences(tmp_path: Path) -> None:
    from soundmill.models.verification.seats import Seat

    from ..fake_npu import npu

    npu().limit(0, 300_000)
    small = verified("captioner", tmp_path, Seat(card="npu:0")).sides[0]
    assert small.failure is not None
    assert "million parameters need about" in small.failure
    assert small.failure.endswith("free memory there, or choose another card or host")

    npu().limit(0, 64 * 1024 * 1024)
    npu().refuse(0)
    refused = verified("captioner", tmp_path, Seat(card="npu:0")).sides[0]
    assert refused.failure is not None
    assert refused.failure.startswith("npu:0 has too little memory (")

    npu().break_card("The Inner error is reported as above. The process exits for this inner error")
    broken = verified("captioner", tmp_path, Seat(card="npu:0"), end_to_end=True).sides[0]
    assert broken.failure is not None
    assert "npu:0 failed, and nothing more can be asked of it: " in broken.failure
    assert not broken.ok
    assert broken.hearings == []
