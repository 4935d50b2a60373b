"""What there is of a checkpoint on this host, and what a pull wrote down about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from soundmill.storage.catalog import load_catalog
from soundmill.storage.checkpoints import RECORD, Installation, Origin, Record, revision_of, staging_of
from soundmill.storage.model_settings import ModelSettings
from soundmill.storage.settings import Settings

MOSS = load_catalog().get("moss-tts-nano-100m")
CODEC = "MOSS-Audio-Tokenizer-Nano"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", models_dir=tmp_path / "models")


@pytest.fixture
def folder(settings: Settings) -> Path:
    return settings.checkpoint_of(MOSS.id)


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def state(settings: Settings) -> str:
    return Installation.find(settings, MOSS).state


def record() -> Record:
    origin = Origin(
        hub="modelscope", name="openmoss/MOSS", folder="", revision="master", commit=None,
        files={"config.json": (2, "ab"), "model.safetensors": (9, "cd")}, left_out={"x.py": 7, "y": None},
        converted={"pytorch_model.bin": (8, "ef")},
    )  # fmt: skip
    codec = Origin(
        hub="modelscope", name="openmoss/Codec", folder=CODEC, revision="v1", commit="c0ffee",
        files={}, left_out={"z.bin": 1},
    )  # fmt: skip
    return Record(model=MOSS.id, pulled_at="2026-01-01T00:00:00+00:00", origins=(origin, codec))


def test_a_model_without_weights_is_built_in(settings: Settings) -> None:
    assert Installation.find(settings, load_catalog().get("acoustic")).state == "built in"


def test_a_folder_that_is_not_there_is_absent_and_one_that_was_begun_interrupted(
    settings: Settings, folder: Path
) -> None:
    assert state(settings) == "absent"
    staging_of(folder).mkdir(parents=True)
    assert state(settings) == "interrupted"


def test_what_is_missing_is_listed(settings: Settings, folder: Path) -> None:
    fill(folder, "config.json", "model.safetensors", f"{CODEC}/config.json")

    found = Installation.find(settings, MOSS)

    assert found.state == "incomplete"
    assert found.missing == ("tokenizer.model", f"{CODEC}/model.safetensors.index.json")


@pytest.mark.parametrize("place", [CODEC, "codec", f"../{CODEC}"])
def test_the_codec_may_lie_where_it_is_looked_for(settings: Settings, folder: Path, place: str) -> None:
    fill(folder, "config.json", "tokenizer.model", "model.safetensors")
    fill(folder / place, "config.json", "model.safetensors")

    assert state(settings) == "installed"


def test_the_codec_may_lie_where_a_setting_names_it(settings: Settings, folder: Path, tmp_path: Path) -> None:
    fill(folder, "config.json", "tokenizer.model", "model.safetensors")
    fill(tmp_path / "elsewhere", "config.json", "model.safetensors")
    chosen = ModelSettings(extra={"codec": str(tmp_path / "elsewhere")})

    assert state(settings) == "incomplete"
    assert state(settings.model_copy(update={"model_options": {MOSS.id: chosen}})) == "installed"


def test_a_pickle_has_to_be_converted(settings: Settings, folder: Path) -> None:
    fill(folder, "config.json", "tokenizer.model", "pytorch_model.bin")
    fill(folder / CODEC, "config.json", "model.safetensors.index.json", "model-1.safetensors")
    assert state(settings) == "unconverted"
    fill(folder, "model.safetensors")
    assert state(settings) == "installed"


def test_a_record_is_read_as_it_was_written(settings: Settings, folder: Path) -> None:
    fill(folder, "config.json")
    assert revision_of(folder) is None
    (folder / RECORD).write_text(record().text())

    assert Record.read(folder) == record()
    assert revision_of(folder) == "openmoss/MOSS@master openmoss/Codec@c0ffee"
    assert set(record().left_out()) == {"x.py", "y", f"{CODEC}/z.bin"}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": 1, "pulled_at": 2, "origins": [3]}', "\x00"])
def test_a_record_that_cannot_be_read_is_none(folder: Path, content: str) -> None:
    fill(folder, "config.json")
    (folder / RECORD).write_text(content)

    assert Record.read(folder) is None
