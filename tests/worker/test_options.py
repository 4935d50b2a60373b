"""Which models are served, and with which choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from soundmill.storage.arguments import Arguments
from soundmill.storage.catalog import Catalog, Model
from soundmill.storage.errors import SettingsError, UnknownModel
from soundmill.storage.model_settings import ModelSettings
from soundmill.storage.settings import Settings
from soundmill.worker import cli, stack
from soundmill.worker.options import options_of, read_models, served_models


def entry(name: str, needs: str = "") -> Model:
    return Model(id=name, kind="tts", title="", arguments=Arguments, handler="-:-", licence="-", needs=needs)


CATALOG = Catalog([entry("speaks"), entry("heavy", "models"), entry("other", "models")])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "models" / "heavy").mkdir(parents=True)
    return Settings(state_dir=tmp_path, models_dir=tmp_path / "models")


def test_without_names_all_are_served_that_need_no_weights_or_have_them(settings: Settings) -> None:
    served = served_models(settings, CATALOG, [])
    assert served.models == ("speaks", "heavy")
    assert served.without_weights == ("other",)


def test_what_is_named_is_served_whether_it_has_weights_or_not(settings: Settings) -> None:
    assert served_models(settings, CATALOG, ["other", "speaks", "other"]).models == ("other", "speaks")
    with pytest.raises(UnknownModel):
        served_models(settings, CATALOG, ["nobody"])


def test_a_checkpoint_lies_in_the_folder_of_the_models_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    settings = Settings(
        state_dir=tmp_path,
        models_dir=tmp_path / "models",
        checkpoint_dirs={"other": tmp_path / "elsewhere"},
        model_options={"heavy": ModelSettings(checkpoint=tmp_path / "here")},
    )
    assert options_of(settings, CATALOG.get("other")).checkpoint == tmp_path / "elsewhere"
    assert options_of(settings, CATALOG.get("heavy")).checkpoint == tmp_path / "here"
    plain = Settings(state_dir=tmp_path, models_dir=tmp_path / "models")
    assert options_of(plain, CATALOG.get("heavy")).checkpoint == tmp_path / "models" / "heavy"
    assert options_of(plain, CATALOG.get("speaks")).checkpoint is None


def test_the_number_of_slots_may_stand_in_either_place(tmp_path: Path) -> None:
    settings = Settings(
        state_dir=tmp_path, slots={"heavy": 3, "other": 4}, model_options={"other": ModelSettings(slots=5)}
    )
    assert options_of(settings, CATALOG.get("heavy")).slots == 3
    assert options_of(settings, CATALOG.get("other")).slots == 5
    assert options_of(settings, CATALOG.get("speaks")).slots is None


def test_the_command_line_names_models_with_their_choices(tmp_path: Path) -> None:
    ids, chosen, folders = read_models(
        ["heavy:slots=8,share=0.5,dtype=bf16,graphs=off,reproducible=true,flow_steps=12", "speaks"],
        [f"heavy={tmp_path}"],
    )
    assert ids == ["heavy", "speaks"]
    assert chosen == {
        "heavy": ModelSettings(
            slots=8, share=0.5, dtype="bf16", graphs="off", reproducible=True, extra={"flow_steps": "12"}
        )
    }
    assert folders == {"heavy": tmp_path}


def test_a_bare_folder_belongs_to_the_one_model_that_is_served(tmp_path: Path) -> None:
    assert read_models(["heavy"], [str(tmp_path)])[2] == {"heavy": tmp_path}
    with pytest.raises(SettingsError, match="write MODEL=FOLDER, or serve one model"):
        read_models(["heavy", "speaks"], [str(tmp_path)])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("heavy:slots=none", "--model: slots: Input should be a valid integer"),
        ("heavy:share=2", "--model: share: Input should be less than or equal to 1"),
        ("heavy:dtype=int4", "--model: dtype: Input should be 'auto', 'fp32'"),
        ("heavy:slots", "not of the form name=value"),
        (":slots=2", "names no model"),
    ],
)
def test_choices_that_cannot_be_read_are_named(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        read_models([text], [])


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no folder .*absent"):
        read_models(["heavy"], [f"heavy={tmp_path}/absent"])


def test_what_is_chosen_on_the_command_line_reaches_the_processes_of_the_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Settings, tuple[str, ...]]] = []

    def run_stack(settings: Settings, *, models: tuple[str, ...], announce: Any, **_: Any) -> int:
        started.append((settings, models))
        announce(None)
        return 0

    monkeypatch.setattr(stack, "run_stack", run_stack)
    monkeypatch.setenv("SOUNDMILL_MODEL_OPTIONS", "csm-1b:slots=2;acoustic:slots=3")
    app = typer.Typer()
    cli.commands(app)
    words = ["worker", "--model", "csm-1b:slots=8,dtype=fp32", "--checkpoint-dir", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    [(settings, models)] = started
    assert models == ("csm-1b",)
    assert settings.checkpoint_of("csm-1b") == tmp_path
    assert settings.model_options["csm-1b"] == ModelSettings(slots=8, dtype="fp32")
    assert settings.model_options["acoustic"].slots == 3

    done = CliRunner().invoke(app, ["up", "--no-flower"])
    assert "csm-1b" not in started[1][1]
    assert "acoustic" in started[1][1]
    assert done.stderr.count("no weights here for csm-1b") == 1
