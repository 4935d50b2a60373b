"""The README's table of what has been run where is made of the documents in `benchmarks/results`, and of nothing else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "table.py"

SPREAD = {"median": 0.25, "least": 0.2, "most": 0.3}


def script() -> Any:
    specification = importlib.util.spec_from_file_location("table", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def document(**more: Any) -> dict[str, Any]:
    cell = {
        "load": {"slots": 8, "text": "medium", "frames": 128, "requests": 8}, "real_time_factor": SPREAD,
        "audio_s_per_s": SPREAD | {"median": 1234.5}, "first_s": SPREAD, "step_ms": SPREAD | {"median": 12.0},
        "times_the_floor": 1.5, "peak_bytes": 3 * 1024**3,
    }  # fmt: skip
    stamp = {
        "card": "npu:0", "device": "Ascend910B3", "threads": 1, "cann": "8.5.0", "driver": "25.2", "torch": "2.13.0",
        "torch_npu": "2.13.0", "taken": "2030-01-02T03:04:05+00:00", "host_load": 0.5, "checkpoint": "csm-1b",
        "revision": "abc", "dtype": "bf16",
    }  # fmt: skip
    return {
        "soundmill": "bench",
        "model": "csm-1b",
        "kind": "rows",
        "unit": "frames",
        "stamp": stamp,
        "cells": [cell],
        **more,
    }


def rows(folder: Path, *documents: Any) -> list[str]:
    for number, content in enumerate(documents):
        (folder / f"{number}.json").write_text(json.dumps(content))
    made: str = script().table(folder)
    return made.splitlines()[2:]


def test_the_readme_has_the_table_that_the_script_makes() -> None:
    module = script()
    text = module.README.read_text(encoding="utf-8")
    assert module.written(text, module.table()) == text, "run `python benchmarks/table.py --write`"


def test_a_row_says_what_was_measured_on_what(tmp_path: Path) -> None:
    assert rows(tmp_path, document()) == [
        "| `csm-1b` | Ascend910B3, cann 8.5.0, driver 25.2, torch 2.13.0, torch_npu 2.13.0; 2030-01-02, host load 0.5 "
        "| abc, bf16 | 8 at once, medium text, 128 frames | 0.25 | 1,234 | 250 | 12 | 1.5 | 3.00 | – |"
    ]


def test_random_weights_and_several_cards_are_told_apart(tmp_path: Path) -> None:
    made_up = document(size="published")
    made_up["stamp"] |= {"checkpoint": "random", "revision": None}
    cards = {"soundmill": "bench", "cards": [made_up, document()]}
    first, second = rows(tmp_path, cards)
    assert "| random of the published size, bf16 |" in first
    assert "| abc, bf16 |" in second


def test_an_evaluation_says_whether_the_card_was_verified(tmp_path: Path) -> None:
    verify = {"ok": True, "reference": {"card": "cpu:0"}}
    content = {
        "soundmill": "evaluate",
        "verify": verify,
        "bench": [document(), {"kind": "jobs", "failure": "no"}],
    }
    [row] = rows(tmp_path, content)
    assert row.endswith("| yes, beside cpu:0 |")


@pytest.mark.parametrize("other", [{"machine": {}}, [1, 2], {"soundmill": "bench", "kind": "components",
                                                           "model": "m", "stamp": {}}])  # fmt: skip
def test_files_of_other_benchmarks_have_no_row(tmp_path: Path, other: Any) -> None:
    assert rows(tmp_path, other) == []
    assert script().table(tmp_path) == "Nothing has been measured yet."


def test_a_text_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="there are no marks"):
        script().written("# Soundmill\n", "table")
