"""Cards that fail: what is said, and what of the rest is still known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from soundmill.models.errors import ModelError, ModelUnavailable
from soundmill.models.verification.comparison import Comparison
from soundmill.models.verification.material import gather
from soundmill.models.verification.ports import Component, Material, Tensors
from soundmill.models.verification.seats import (
    Loaded,
    Seat,
    SeatFailed,
    ask_reference,
    family_of,
    opened,
    parameters_of,
    seated,
)
from soundmill.models.verification.verdicts import Line

HERE = Seat(card="cpu", threads=1)
OUT_OF_MEMORY = torch.OutOfMemoryError("NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 1.00 GiB free)")
BROKEN = RuntimeError("The Inner error is reported as above.\nThe process exits for this inner error")


def part(
    name: str,
    error: Exception | None = None,
    *,
    after: str | None = None,
    factor: float = 1.0,
    **changed: Any,
) -> Component:
    """Doubles its inputs, or fails."""

    def cases(_: Material, answers: Any) -> dict[str, Tensors]:
        return {"one": {"x": answers[after]["one"]["y"] if after else torch.ones(3)}}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        if error is not None:
            raise error
        return {"y": factor * 2 * inputs["x"]}

    fields: dict[str, Any] = {"dtype": "fp32", "cases": cases, "run": run, "readings": {"y": "values"}}
    return Component(name=name, **fields | changed)


def compared(
    reference: Sequence[Component],
    examined: Sequence[Component],
    tmp_path: Path,
    told: list[str] | None = None,
) -> tuple[list[Line], str | None]:
    """The lines, and why the examined side could not go on."""
    tell = (told if told is not None else []).append
    found: list[Line] = []
    with opened(HERE) as device:
        asked = ask_reference(Loaded(device, reference), gather(tmp_path), tell)
        try:
            Comparison(asked, "rounding", tell).lines(Loaded(device, examined), found)
        except SeatFailed as error:
            return found, str(error)
    return found, None


def told_of(found: Sequence[Line]) -> dict[str, tuple[str, ...]]:
    return {line.component: (line.verdict, *line.reasons) for line in found}


def test_a_part_that_fails_gets_a_line_and_the_others_go_on(tmp_path: Path) -> None:
    good = [part("first"), part("second", after="first"), part("third", after="second")]
    bad = [good[0], part("second", NotImplementedError("aten::foo is not there\non this card")), good[2]]

    found, failure = compared(good, bad, tmp_path)

    assert failure is None
    assert told_of(found) == {
        "first": ("pass",),
        "second": ("fail", "NotImplementedError: aten::foo is not there on this card"),
        "third": ("pass",),
    }


def test_too_little_memory_is_said_with_the_remedy_and_the_others_go_on(tmp_path: Path) -> None:
    good = [part("first"), part("second")]

    found, failure = compared(good, [part("first", OUT_OF_MEMORY), good[1]], tmp_path)

    assert failure is None
    assert found[0].reasons[0].startswith("cpu:0 has too little memory (")
    assert found[0].reasons[0].endswith("free some, or choose another card")
    assert found[1].verdict == "pass"


def test_after_a_failure_of_the_card_nothing_more_is_asked_and_what_was_known_stays(tmp_path: Path) -> None:
    good = [part("first"), part("second"), part("third")]

    found, failure = compared(good, [good[0], part("second", BROKEN), good[2]], tmp_path)

    assert failure is not None
    assert failure.startswith("second: cpu:0 failed, and nothing more can be asked of it: ")
    assert [(line.component, line.verdict) for line in found] == [("first", "pass"), ("second", "fail")]


def test_what_the_reference_did_not_answer_fails_and_so_does_what_is_made_from_it(tmp_path: Path) -> None:
    good = [part("first"), part("second", after="first"), part("third")]

    found, _ = compared([part("first", ValueError("no")), *good[1:]], good, tmp_path)

    told = told_of(found)
    assert told["first"] == ("fail", "the reference did not answer: ValueError: no")
    assert told["second"][1].endswith("its inputs come from 'first', which did not answer")
    assert told["third"] == ("pass",)


def test_another_shape_another_part_and_a_missing_tensor_fail(tmp_path: Path) -> None:
    good = [part("shape"), part("missing")]
    bad = [
        part("shape", run=lambda inputs: {"y": torch.ones(4)}),
        part("missing", run=lambda inputs: {}),
        part("another"),
    ]

    found, _ = compared(good, bad, tmp_path)

    assert told_of(found) == {
        "shape": ("fail", "its shape is [4], and the reference's [3] (one)"),
        "missing": ("fail", "one of the sides did not give it"),
        "another": ("fail", "the reference has no such component"),
    }


def test_a_part_gets_the_inputs_of_the_reference_whatever_came_before(tmp_path: Path) -> None:
    good = [part("first"), part("second", after="first")]

    found, _ = compared(good, [part("first", factor=1.02), good[1]], tmp_path)

    assert told_of(found)["first"][0] == "fail"
    assert told_of(found)["second"] == ("pass",)


def test_free_runs_are_reported_and_never_judged(tmp_path: Path) -> None:
    readings = {"y": "tokens"}
    free, other = part("free run", readings=readings), part("free run", factor=2.0, readings=readings)

    found, _ = compared([free], [other], tmp_path)

    assert found[0].verdict == "reported"
    assert found[0].worst is not None
    assert found[0].worst.first_divergence == 0


def test_a_long_error_is_cut_and_kept_on_one_line(tmp_path: Path) -> None:
    found, _ = compared([part("first")], [part("first", ValueError("x\n" * 1000))], tmp_path)

    assert len(found[0].reasons[0]) < 450
    assert "\n" not in found[0].reasons[0]


# -- loading -------------------------------------------------------------------------------------------


def loading(**family: Any) -> str:
    """Why a family cannot be loaded."""
    module: Any = SimpleNamespace(**family)
    with opened(HERE) as device:
        place = seated(module, Path("nowhere"), device, torch.float32, lambda _: None)
        with pytest.raises(SeatFailed) as failed:
            place.__enter__()
    return str(failed.value)


def test_a_checkpoint_that_is_too_large_is_refused_before_it_is_loaded() -> None:
    def components(*_: Any) -> Any:
        raise AssertionError("it was loaded")

    words = loading(components=components, parameters=lambda _: 10**15)
    assert words.startswith("1000000000.0 million parameters need about 4470348.4 GiB on cpu:0 in fp32, and ")
    assert words.endswith("GiB are free; free memory there, or choose another card or host")


def test_what_a_checkpoint_needs_is_said_before_it_is_loaded() -> None:
    told: list[str] = []

    def components(*_: Any) -> tuple[()]:
        assert "2.0 million parameters need about 0.0 GiB on cpu:0 in bf16" in told[0]
        return ()

    module: Any = SimpleNamespace(components=components, parameters=lambda _: 2 * 10**6)
    with (
        opened(HERE) as device,
        seated(module, Path("nowhere"), device, torch.bfloat16, told.append) as loaded,
    ):
        assert loaded.components == ()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModelUnavailable("model.safetensors is missing; download it"),
            "model.safetensors is missing; download it",
        ),
        (OUT_OF_MEMORY, "cpu:0 has too little memory ("),
        (BROKEN, "cpu:0 failed, and nothing more can be asked of it: "),
        (KeyError("layer"), "KeyError: 'layer'"),
    ],
)
def test_a_checkpoint_that_cannot_be_loaded_is_a_sentence(error: Exception, words: str) -> None:
    def components(*_: Any) -> Any:
        raise error

    assert loading(components=components, parameters=lambda _: 1).startswith(words)


def test_all_tensors_of_a_folder_are_counted_unless_the_family_knows_better(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(())}, tmp_path / "model.safetensors")
    plain: Any = SimpleNamespace()
    knowing: Any = SimpleNamespace(parameters=lambda _: 7)
    assert parameters_of(plain, tmp_path) == 13
    assert parameters_of(knowing, tmp_path) == 7
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelUnavailable, match="damaged or truncated"):
        parameters_of(plain, tmp_path)


def test_a_card_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(SeatFailed, match="there is no torch_npu here"), opened(Seat(card="npu:0")):
        pass


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with opened(Seat(card="cpu", threads=before + 1)):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_families_are_found_by_their_handlers() -> None:
    assert family_of("soundmill.models.csm:Csm").__name__ == "soundmill.models.csm.components"
    assert (
        family_of("soundmill.models.aligner.handler:Aligner").__name__
        == "soundmill.models.aligner.components"
    )
    for handler in ("soundmill.models.espeak_ng:EspeakNg", "soundmill.models.acoustic:Acoustic"):
        with pytest.raises(ModelError, match="has no weights"):
            family_of(handler)
