"""What an interrupted download leaves behind is found without loading it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from soundmill.storage.catalog import load_catalog
from soundmill.storage.checkpoints import staging_of
from soundmill.storage.settings import Settings
from soundmill.worker import doctor
from soundmill.worker.checkpoint_check import damage_of


def write_weights(file: Path, *, payload: int = 16, cut: int = 0) -> Path:
    """A safetensors file with one tensor of `payload` bytes, `cut` of which are missing."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [payload], "data_offsets": [0, payload]}}).encode()
    file.write_bytes((struct.pack("<Q", len(header)) + header + bytes(payload))[: -cut or None])
    return file


def test_a_whole_checkpoint_is_not_damaged(tmp_path: Path) -> None:
    write_weights(tmp_path / "part-1.safetensors")
    (tmp_path / "codec").mkdir()
    write_weights(tmp_path / "codec" / "model.safetensors", payload=0)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "part-1.safetensors"}})
    )
    assert damage_of(tmp_path) is None


def test_a_folder_without_weights_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert str(damage_of(tmp_path)).startswith(f"{tmp_path} holds no weights")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is truncated or no safetensors file"),
        (b"<html>Not Found</html>", "is truncated or no safetensors file"),
        (struct.pack("<Q", 4) + b"nope", "has a damaged header"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "has a damaged header"),
    ],
)
def test_a_file_that_is_no_weights_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert damage_of(tmp_path) == f"{tmp_path}/model.safetensors {words}; download it again"


def test_a_file_that_is_cut_off_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    size = write_weights(tmp_path / "model.safetensors").stat().st_size
    write_weights(tmp_path / "model.safetensors", cut=3)
    assert f"has {size - 3} of {size} bytes" in str(damage_of(tmp_path))
    (tmp_path / "model.safetensors").rename(tmp_path / "model.bin")
    assert damage_of(tmp_path) is None
    (tmp_path / "model.bin").write_bytes(b"")
    assert "model.bin is empty" in str(damage_of(tmp_path))


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    assert "part-1.safetensors is missing, which model.safetensors.index.json names" in str(
        damage_of(tmp_path)
    )
    index.write_text("{")
    assert f"{index} cannot be read" in str(damage_of(tmp_path))


def test_the_doctor_tells_weights_that_are_absent_from_weights_that_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    settings = Settings(state_dir=tmp_path / "state", models_dir=tmp_path / "models")
    model = load_catalog().get("csm-1b")
    assert doctor._checkpoint(settings, model).verdict == "missing"
    folder = tmp_path / "models" / "csm-1b"
    folder.mkdir(parents=True)
    write_weights(folder / "model.safetensors", cut=1)
    finding = doctor._checkpoint(settings, model)
    assert finding.verdict == "broken"
    assert finding.detail.endswith("bytes; download it again: soundmill models pull csm-1b")
    write_weights(folder / "model.safetensors")
    finding = doctor._checkpoint(settings, model)
    assert finding.verdict == "broken"
    assert (
        "has no config.json, tokenizer.json, tokenizer_config.json: soundmill models pull" in finding.detail
    )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    assert doctor._checkpoint(settings, model).verdict == "ok"


def test_the_doctor_tells_of_an_interrupted_pull_and_of_a_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    settings = Settings(state_dir=tmp_path / "state", models_dir=tmp_path / "models")
    model = load_catalog().get("moss-tts-nano-100m")
    folder = settings.checkpoint_of(model.id)
    staging_of(folder).mkdir(parents=True)
    assert f"soundmill models pull {model.id}, which was begun" in doctor._checkpoint(settings, model).detail
    codec = folder / "MOSS-Audio-Tokenizer-Nano"
    codec.mkdir(parents=True)
    write_weights(codec / "model.safetensors")
    for path in (codec / "config.json", folder / "config.json", folder / "tokenizer.model"):
        path.write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    finding = doctor._checkpoint(settings, model)
    assert (finding.verdict, f"soundmill models convert {folder}" in finding.detail) == ("broken", True)
