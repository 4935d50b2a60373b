"""`soundmill bench` and `soundmill evaluate`, as they are typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from soundmill.models.bench import bandwidth
from soundmill.models.bench.tally import NothingMade
from soundmill.producer.cli import build_app
from soundmill.worker.commands import bench

DATA = Path(__file__).resolve().parents[1] / "data"
CAPTIONER = DATA / "captioner"
QUICK = (
    "--device",
    "cpu",
    "--threads",
    "1",
    "--text",
    "short",
    "--slots",
    "1",
    "--runs",
    "1",
    "--warmup",
    "0",
)


@pytest.fixture(autouse=True)
def _own_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SOUNDMILL_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(bandwidth, "_PROCESSOR_BYTES", 1 << 22)


def soundmill(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), arguments)


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_random_weights_of_a_folders_size_are_measured_and_kept(tmp_path: Path) -> None:
    kept = tmp_path / "new" / "figures.json"
    document = told(
        soundmill(
            "bench",
            "acestep-captioner",
            "--random-weights",
            "--checkpoint-dir",
            str(CAPTIONER),
            *QUICK,
            "--frames",
            "3,5",
            "--json",
            "--output",
            str(kept),
        )
    )
    assert document == json.loads(kept.read_text())
    assert [cell["load"]["frames"] for cell in document["cells"]] == [3, 5]
    assert document["stamp"]["checkpoint"] == "random"
    assert document["run"]["runs"] == 1
    assert document["run"]["ignore_stop"] is True


def test_components_are_told_as_a_table() -> None:
    result = soundmill("bench", "acestep-captioner", "--random-weights", "--checkpoint-dir", str(CAPTIONER),
                       "--components", "--seq-len", "8", *QUICK)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "prompt, 8 positions" in result.stdout
    assert "speed-up" in result.stdout


def test_everything_of_a_model_is_evaluated_in_one_document(tmp_path: Path) -> None:
    kept = tmp_path / "evaluation.json"
    result = soundmill("evaluate", "acestep-captioner", "--checkpoint-dir", str(CAPTIONER), "--device", "cpu",
                       "--threads", "1", "--text", "short", "--slots", "1", "--runs", "1", "--frames", "2",
                       "--seq-len", "4", "--set", "max_new_tokens=4", "--output", str(kept))  # fmt: skip
    assert result.exit_code == 0, result.output
    document = json.loads(kept.read_text())
    assert document["ok"] is True
    assert document["verify"]["ok"] is True
    assert [one["kind"] for one in document["bench"]] == ["components", "rows", "jobs"]
    assert "everything passed" in result.stdout


def test_an_evaluation_that_does_not_pass_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from soundmill.worker.commands import evaluate

    class Failed:
        ok = False

        def as_json(self) -> dict[str, Any]:
            return {"ok": False}

    monkeypatch.setattr(evaluate, "_verify", lambda *args: Failed())
    monkeypatch.setattr(evaluate, "KINDS", ("components",))
    result = soundmill("evaluate", "acestep-captioner", "--checkpoint-dir", str(CAPTIONER), "--device", "cpu",
                       "--runs", "1", "--json")  # fmt: skip
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False


def test_an_evaluation_goes_on_where_one_measurement_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from soundmill.worker.commands import evaluate

    def measure(plan: Any, tell: Any) -> dict[str, Any]:
        if plan.kind == "rows":
            raise NothingMade("silence")
        return {"kind": plan.kind, "cells": []}

    monkeypatch.setattr(evaluate, "_verify", lambda *args: None)
    monkeypatch.setattr("soundmill.models.bench.measure", measure)
    result = soundmill(
        "evaluate", "acestep-captioner", "--checkpoint-dir", str(CAPTIONER), "--device", "cpu", "--json"
    )
    assert result.exit_code == 1
    assert [one.get("failure") for one in json.loads(result.stdout)["bench"]] == [None, "silence", None]


# -- what fails ------------------------------------------------------------------------------------


def test_without_the_weights_it_says_where_they_belong_and_what_needs_none() -> None:
    for command in ("bench", "evaluate"):
        result = soundmill(command, "csm-1b", "--device", "cpu")
        assert result.exit_code == 1
        assert "models/csm-1b is no folder" in result.stderr
        assert "--random-weights" in result.stderr


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(CAPTIONER, folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    for command in ("bench", "evaluate"):
        result = soundmill(command, "acestep-captioner", "--checkpoint-dir", str(folder), "--device", "cpu")
        assert result.exit_code == 1
        assert "model.safetensors" in result.stderr


def test_the_checkpoint_of_another_model_is_refused() -> None:
    other = str(DATA / "csm" / "checkpoint")
    result = soundmill("bench", "acestep-captioner", "--checkpoint-dir", other, *QUICK, "--frames", "2")
    assert result.exit_code == 1
    assert "holds a 'csm' model, not 'qwen2_5_omni'" in result.stderr


def test_a_card_that_is_not_there_is_a_sentence() -> None:
    result = soundmill("bench", "acestep-captioner", "--random-weights", "--checkpoint-dir", str(CAPTIONER),
                       "--device", "npu:0", "--frames", "2")  # fmt: skip
    assert result.exit_code == 1
    assert "npu" in result.stderr
    assert "Traceback" not in result.output


def test_nothing_is_reported_of_a_run_without_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(plan: Any, cards: Any) -> dict[str, Any]:
        raise NothingMade("4 requests gave nothing")

    monkeypatch.setattr(bench, "measured", nothing)
    kept = tmp_path / "figures.json"
    result = soundmill("bench", "acoustic", "--device", "cpu", "--output", str(kept), "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "nothing is reported: 4 requests gave nothing" in result.stderr
    assert not kept.exists()


def test_requests_that_failed_are_told_by_the_exit_code() -> None:
    cell = {"failed": 0, "empty": 0}
    assert not bench.failed_in_part({"cells": [cell], "refused": []})
    assert bench.failed_in_part({"cells": [cell, cell | {"failed": 1}], "refused": []})
    assert bench.failed_in_part({"cells": [cell | {"empty": 1}], "refused": []})
    assert bench.failed_in_part({"cells": [cell], "refused": [{}]})
    assert bench.failed_in_part({"cards": [{"cells": [cell]}], "failures": {"npu:1": "gone"}})


def test_a_full_disk_loses_no_figures() -> None:
    result = soundmill("bench", "acoustic", "--text", "short", "--slots", "1", "--runs", "1", "--device", "cpu",
                       "--json", "--output", "/dev/full")  # fmt: skip
    assert result.exit_code == 1
    assert json.loads(result.stdout)["model"] == "acoustic"
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["csm-1b", "--device", "tpu:0"], "tpu:0"),
        (["csm-1b", "--device", ","], "names no card"),
        (["csm-1b", "--slots", "1,x"], "--slots"),
        (["csm-1b", "--frames", "0"], "--frames"),
        (["csm-1b", "--text", "tall"], "--text"),
        (["csm-1b", "--against", "generate", "--components"], "choose one"),
        (["acoustic", "--device", "cpu", "--set", "novalue"], "--set"),
        (["csm-1b", "--random-weights", "--device", "cpu", "--set", "a=1"], "of whole jobs"),
    ],
)
def test_what_cannot_be_read_is_a_usage_error(arguments: list[str], words: str) -> None:
    result = soundmill("bench", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())


def test_what_a_model_has_no_kind_of_measurement_for_is_said() -> None:
    result = soundmill("bench", "espeak-ng", "--random-weights", "--device", "cpu")
    assert result.exit_code == 1
    assert "espeak-ng is measured by whole jobs only" in result.stderr


def test_several_cards_are_named_in_any_way() -> None:
    assert [str(card) for card in bench.cards_of(["npu:0,npu:1", "npu:1", "cuda"])] == [
        "npu:0",
        "npu:1",
        "cuda:0",
    ]


def test_choices_behind_the_id_are_those_of_a_worker() -> None:
    def plan(text: str) -> Any:
        return bench.plan_of(
            text, checkpoint_dir=None, slots=(), dtype=None, graphs="off", random_weights=True, kind="rows"
        )[1]

    made = plan("csm-1b:slots=3,dtype=bf16,fused=off,reproducible=true")
    assert (made.slots, made.dtype, made.graphs, made.extra) == ((3,), "bf16", "off", {"fused": "off"})
    assert made.reproducible is True
    assert made.options.slots == 3
    assert plan("csm-1b").slots == ()
