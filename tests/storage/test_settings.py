import logging
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from soundmill.storage.errors import SettingsError
from soundmill.storage.settings import Settings, load_settings, masked


@pytest.fixture(autouse=True)
def bare_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without any setting: empty home, empty current folder, no variable of ours."""
    for name in list(os.environ):
        if name.startswith(("SOUNDMILL_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_without_any_source_everything_lies_in_the_state_folder(tmp_path: Path) -> None:
    settings = load_settings()
    state = tmp_path / "home/.local/state/soundmill"
    assert settings.state_dir == state
    assert settings.database_url == f"sqlite:///{state}/soundmill.db"
    assert settings.storage_url == f"file://{state}/artifacts"
    assert settings.broker_url is None
    assert settings.input_roots == (tmp_path / "here",)
    assert set(settings.origins.values()) == {"default"}


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = Path("soundmill.toml")
    file.write_text("lease_s = 40\nwindow_min = 40\nmax_crashes = 4\n")
    monkeypatch.setenv("SOUNDMILL_LEASE_S", "50")
    monkeypatch.setenv("SOUNDMILL_WINDOW_MIN", "50")
    settings = load_settings({"lease_s": 60, "window_min": None})
    assert (settings.lease_s, settings.window_min, settings.max_crashes) == (60, 50, 4)
    assert settings.max_failures == 3
    origins = settings.origins
    assert origins["lease_s"] == "flag"
    assert origins["window_min"] == "environment SOUNDMILL_WINDOW_MIN"
    assert origins["max_crashes"] == f"file {file.absolute()}"
    assert origins["max_failures"] == "default"


def test_the_named_file_is_read_before_the_one_here_before_the_one_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "xdg/soundmill/config.toml"
    users.parent.mkdir(parents=True)
    users.write_text("max_crashes = 7")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert load_settings().max_crashes == 7
    Path("soundmill.toml").write_text("max_crashes = 8")
    assert load_settings().max_crashes == 8
    (tmp_path / "named.toml").write_text("max_crashes = 9")
    monkeypatch.setenv("SOUNDMILL_CONFIG", str(tmp_path / "named.toml"))
    assert load_settings().max_crashes == 9
    monkeypatch.setenv("SOUNDMILL_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(SettingsError, match=r"SOUNDMILL_CONFIG names .*absent\.toml"):
        load_settings()


def test_paths_in_a_file_are_meant_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/sm.toml").write_text('state_dir = "state"\ninput_roots = ["in", "~/audio"]\n')
    monkeypatch.setenv("SOUNDMILL_CONFIG", str(tmp_path / "etc/sm.toml"))
    settings = load_settings()
    assert settings.state_dir == tmp_path / "etc/state"
    assert settings.input_roots == (tmp_path / "etc/in", tmp_path / "home/audio")


def test_an_unknown_key_in_the_file_names_file_key_and_nearest_setting() -> None:
    Path("soundmill.toml").write_text("heartbeats = 4")
    with pytest.raises(SettingsError, match=r"soundmill\.toml: 'heartbeats' .* did you mean 'heartbeat_s'"):
        load_settings()


def test_a_broken_file_is_named() -> None:
    Path("soundmill.toml").write_text("lease_s = ")
    with pytest.raises(SettingsError, match=r"soundmill\.toml cannot be read"):
        load_settings()


def test_an_unknown_variable_is_a_warning_and_not_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOUNDMILL_LEASES_S", "1")
    with caplog.at_level(logging.WARNING):
        load_settings()
    (record,) = caplog.records
    assert record.__dict__["variable"] == "SOUNDMILL_LEASES_S"
    assert "SOUNDMILL_LEASE_S" in record.__dict__["hint"]


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDMILL_BROKER_URL", "")
    assert load_settings().broker_url is None


def test_lists_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDMILL_PLUGINS", "house.voices, house.tools")
    monkeypatch.setenv("SOUNDMILL_INPUT_ROOTS", "/data/a,/data/b")
    monkeypatch.setenv("SOUNDMILL_SLOTS", "csm-1b=16,espeak-ng=4")
    settings = load_settings()
    assert settings.plugins == ("house.voices", "house.tools")
    assert settings.input_roots == (Path("/data/a"), Path("/data/b"))
    assert settings.slots == {"csm-1b": 16, "espeak-ng": 4}


def test_a_list_without_its_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDMILL_SLOTS", "csm-1b")
    with pytest.raises(SettingsError, match="name=number"):
        load_settings()


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"heartbeat_s": 15}, "lower heartbeat_s"),
        ({"reaper_s": 31, "leader_lease_s": 60}, "lower reaper_s"),
        ({"leader_lease_s": 5}, "raise leader_lease_s"),
        ({"window_min": 3000}, "lower window_min"),
        ({"artifact_grace_s": 3600}, "raise it"),
    ],
)
def test_settings_that_contradict_each_other_say_what_to_change(
    values: dict[str, float], advice: str
) -> None:
    with pytest.raises(SettingsError, match=advice) as caught:
        load_settings(values)
    assert "from flag" in str(caught.value)
    assert "from default" in str(caught.value)


def test_a_bad_value_is_named_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDMILL_LEASE_S", "long")
    with pytest.raises(SettingsError, match=r"lease_s = long from environment SOUNDMILL_LEASE_S: .*number"):
        load_settings()


def test_not_a_number_is_not_a_duration() -> None:
    with pytest.raises(SettingsError):
        load_settings({"lease_s": float("nan")})


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean 'state_dir'"):
        load_settings({"statedir": "/x"})


def test_settings_are_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.lease_s = 3  # type: ignore[misc]


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql+psycopg://me:sec/r@t@db/x", "postgresql+psycopg://me:***@db/x"),
        ("sentinel://:secret@a:1;sentinel://:secret@b:2", "sentinel://:***@a:1;sentinel://:***@b:2"),
        ("redis://:sec;ret@host", "redis://:***@host"),
        ("redis+socket:///run/a.sock?password=secret&virtual_host=0",
         "redis+socket:///run/a.sock?password=***&virtual_host=0"),
        ("sqlite:////var/lib/soundmill.db", "sqlite:////var/lib/soundmill.db"),
        ("redis://secret@host/0", "redis://***@host/0"),
        ("postgresql://me@db/x?sslpassword=secret", "postgresql://me@db/x?sslpassword=***"),
        ("host=db password=secret dbname=x", "host=db password=*** dbname=x"),
        ("password=secret", "password=***"),
        ("s3://b/p?X-Amz-Signature=secret&x=1", "s3://b/p?X-Amz-Signature=***&x=1"),
    ],
)  # fmt: skip
def test_passwords_are_masked_in_addresses(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_no_password_is_shown_printed_or_put_into_an_error() -> None:
    given = {"broker_url": "redis://:secret@host", "database_url": "postgresql://me:secret@db/x"}
    settings = load_settings(given | {"flower_basic_auth": "me:secret:secret"})
    assert "secret" not in repr(settings) + str(settings) + str(settings.shown())
    assert settings.shown()["flower_basic_auth"] == "me:***"
    with pytest.raises(SettingsError) as caught:
        load_settings(given | {"heartbeat_s": 29, "max_crashes": "redis://:secret@host"})
    with pytest.raises(SettingsError) as auth:
        load_settings(given | {"flower_basic_auth": "secret"})
    assert "secret" not in str(auth.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_choices_for_models_reach_another_process_whatever_their_folders_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a, b; c=d"
    monkeypatch.setenv("SOUNDMILL_MODEL_OPTIONS", "csm-1b:slots=8,share=0.5,dtype=bf16;other:flow_steps=12")
    monkeypatch.setenv("SOUNDMILL_CHECKPOINT_DIRS", f"csm-1b={tmp_path}/csm")
    settings = load_settings()
    assert settings.model_options["csm-1b"].slots == 8
    assert settings.model_options["other"].extra == {"flow_steps": "12"}
    assert settings.checkpoint_of("csm-1b") == tmp_path / "csm"
    assert settings.checkpoint_of("other") == settings.models_dir / "other"

    given = load_settings({"checkpoint_dirs": {"csm-1b": odd}})
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings().model_options == settings.model_options
    assert load_settings().checkpoint_dirs == {"csm-1b": odd}


def test_choices_for_models_may_stand_in_the_file() -> None:
    Path("soundmill.toml").write_text(
        'models_dir = "weights"\n[model_options.csm-1b]\nslots = 4\nflow_steps = 12\ncheckpoint = "/srv/csm"\n'
    )
    settings = load_settings()
    assert settings.models_dir == Path("weights").absolute()
    assert settings.model_options["csm-1b"].slots == 4
    assert settings.model_options["csm-1b"].extra == {"flow_steps": "12"}
    assert settings.checkpoint_of("csm-1b") == Path("/srv/csm")


def test_days_to_keep_are_given_by_final_state_and_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().keep_days == {}, "nothing is removed that nobody asked to have removed"
    monkeypatch.setenv("SOUNDMILL_KEEP_DAYS", "completed=30, discarded=0.5")
    settings = load_settings()
    assert settings.keep_days == {"completed": 30, "discarded": 0.5}
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings().keep_days == settings.keep_days


@pytest.mark.parametrize(
    "text", ["executing=3", "completed=0", "completed=-1", "completed", "completed=soon"]
)
def test_days_to_keep_that_make_no_sense_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDMILL_KEEP_DAYS", text)
    with pytest.raises(SettingsError, match="keep_days"):
        load_settings()
