"""What stands beside every result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from soundmill.models import stamp as module
from soundmill.models.device import open_device
from soundmill.models.stamp import origin, stamp

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def record(folder: Path, *origins: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soundmill.json").write_text(json.dumps({"model": "m", "pulled_at": "-", "origins": origins}))
    return folder


def test_a_stamp_says_where_with_what_and_how_busy_the_host_was(tmp_path: Path) -> None:
    folder = record(tmp_path / "weights", {"name": "them/it", "revision": "main", "commit": COMMIT})
    made = stamp(open_device("cpu"), dtype="fp32", checkpoint=folder).as_json()
    assert made["card"] == "cpu:0"
    assert made["device"]
    assert made["torch"].startswith("2.")
    assert made["transformers"].startswith("5.")
    assert made["soundmill"]
    assert (made["torch_npu"], made["cann"], made["cuda"], made["driver"]) == (None, None, None, None)
    assert (made["dtype"], made["checkpoint"]) == ("fp32", "weights")
    assert (made["repository"], made["revision"]) == ("them/it", COMMIT)
    assert made["host_load"] >= 0
    assert made["threads"] >= 1
    json.dumps(made, allow_nan=False)


def test_made_up_weights_are_called_so_whatever_folder_gave_their_sizes(tmp_path: Path) -> None:
    assert stamp(checkpoint=tmp_path, random_weights=True).checkpoint == "random"


def test_a_model_without_a_device_has_neither_its_name_nor_threads() -> None:
    made = stamp(card="npu:3")
    assert (made.card, made.device, made.threads, made.dtype) == ("npu:3", None, None, None)


def test_an_npus_driver_and_cann_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Npu:
        kind, name = "npu", "Ascend910B3"

        def __str__(self) -> str:
            return "npu:0"

    monkeypatch.setattr(module, "cann_version", lambda environment: "8.5.0")
    monkeypatch.setattr(module, "npu_driver_version", lambda: "25.2.0")
    made = stamp(Npu())  # type: ignore[arg-type]
    assert (made.device, made.driver, made.cann) == ("Ascend910B3", "25.2.0", "8.5.0")


def test_several_repositories_stand_beside_each_other(tmp_path: Path) -> None:
    folder = record(
        tmp_path,
        {"name": "them/it", "revision": "main", "commit": COMMIT},
        {"name": "them/codec", "revision": "v2", "commit": None},
    )
    assert origin(folder) == ("them/it them/codec", f"them/it@{COMMIT} them/codec@v2")


def test_the_record_is_the_one_that_a_pull_writes() -> None:
    from soundmill.storage import checkpoints

    assert checkpoints.RECORD == module.RECORD
    written = checkpoints.Record(
        model="m",
        pulled_at="-",
        origins=(
            checkpoints.Origin(
                hub="h", name="them/it", folder="", revision="main", commit=COMMIT, files={}, left_out={}
            ),
        ),
    )
    entry = json.loads(written.text())["origins"][0]
    assert (entry["name"], entry["commit"]) == ("them/it", COMMIT)


def test_what_other_tools_leave_behind_is_read(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--them--it" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    assert origin(snapshot) == ("them/it", COMMIT)
    notes = tmp_path / "local" / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "config.json.metadata").write_text(f"{COMMIT}\netag\n0\n")
    assert origin(tmp_path / "local") == (None, COMMIT)


@pytest.mark.parametrize("text", ["", "[]", '{"origins": [{}]}', '{"origins": 5}'])
def test_a_record_that_cannot_be_read_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "soundmill.json").write_text(text)
    assert origin(tmp_path) == (None, None)
