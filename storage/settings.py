"""The settings of a host, and the only place where the environment is read.

    defaults < TOML file < environment (SOUNDMILL_*) < flags

Every value remembers where it came from (`Settings.origins`), so that a surprise can be traced.
`Settings(...)` itself reads nothing but the XDG folders: tests build exactly what they name, and
`load_settings` lays the sources over each other.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from .errors import SettingsError
from .model_settings import Folder, ModelSettings, absolute, read_folders, read_models

logger = logging.getLogger(__name__)

PREFIX = "SOUNDMILL_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
DEFAULT_ORIGIN = "default"
FLAG_ORIGIN = "flag"

_DAY_S = 24 * 3600

# In the query of an address, and in the `name=value` words that libpq takes in the place of one.
_SECRET_PARAMETER = re.compile(
    r"(?i)((?:^|[?&\s])[^=&;\s]*(?:passw|pwd|secret|token|signature|credential|api_?key|access_?key)[^=&;\s]*=)"
    r"[^&;\s]*"
)


def _xdg_folder(variable: str, fallback: str) -> Path:
    # The XDG specification tells programs to ignore a relative path.
    value = os.environ.get(variable, "")
    return Path(value) if Path(value).is_absolute() else Path.home() / fallback


def _default_state_dir() -> Path:
    return _xdg_folder("XDG_STATE_HOME", ".local/state") / "soundmill"


def _default_runtime_dir() -> Path | None:
    folder = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    return folder / "soundmill" if folder.is_absolute() and folder.is_dir() else None


def _default_database_url(values: dict[str, Any]) -> str:
    # A folder's name may hold what a URL gives a meaning to.
    return f"sqlite:///{quote(str(values['state_dir']))}/soundmill.db"


def _default_storage_url(values: dict[str, Any]) -> str:
    return str((values["state_dir"] / "artifacts").as_uri())


def _default_collect_strays(values: dict[str, Any]) -> bool:
    # A folder beside the job table is nobody else's; of others we cannot know.
    return values.get("storage_url") == _default_storage_url(values)


def _default_models_dir() -> Path:
    return _xdg_folder("XDG_DATA_HOME", ".local/share") / "soundmill/models"


def _split_list(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.split("=", 1) for part in value.split(",") if part.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("write it as name=number,name=number")
    return {name.strip(): number.strip() for name, number in pairs}


Folders = Annotated[tuple[Folder, ...], NoDecode, BeforeValidator(_split_list)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_list)]
Counts = Annotated[dict[str, PositiveInt], NoDecode, BeforeValidator(_split_pairs)]
FinalState = Literal["completed", "discarded", "cancelled"]
Days = Annotated[dict[FinalState, PositiveFloat], NoDecode, BeforeValidator(_split_pairs)]
FoldersByModel = Annotated[dict[str, Folder], NoDecode, BeforeValidator(read_folders)]
SettingsByModel = Annotated[dict[str, ModelSettings], NoDecode, BeforeValidator(read_models)]


class Settings(BaseSettings):
    """All settings of one process, frozen. Addresses may hold passwords: show them with `masked`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # compose files pass unset variables on as empty ones
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    state_dir: Folder = Field(
        default_factory=_default_state_dir,
        description="Folder of the job table, the artifacts, the broker's data and the lock files.",
    )
    runtime_dir: Folder | None = Field(
        default_factory=_default_runtime_dir,
        description="Folder for the embedded broker's socket; none: a private one among the temporary files.",
    )
    broker_url: str | None = Field(
        default=None, repr=False, description="Redis or Valkey to use; none: one is started for this host."
    )
    database_url: str = Field(
        default_factory=_default_database_url,
        repr=False,
        description="SQLAlchemy address of the job table: sqlite or postgresql.",
    )
    storage_url: str = Field(
        default_factory=_default_storage_url,
        repr=False,
        description="Where the bytes of artifacts are kept: file:///FOLDER or s3://BUCKET/PREFIX.",
    )
    tenant: str = Field(
        default="default", min_length=1, max_length=64, description="Whose jobs are submitted and shown."
    )
    input_roots: Folders = Field(
        default_factory=lambda: (Path.cwd(),),
        description="Folders from which submitted audio files may be read.",
    )
    url_hosts: Names = Field(
        default=(),
        description="Hosts from which a submit may fetch input audio over https: NAME, *.NAME or NAME:PORT; "
        "none: no audio is fetched.",
    )
    url_timeout_s: float = Field(default=60, gt=0, description="Longest fetch of an input, in seconds.")
    max_audio_s: float = Field(
        default=3 * 3600, gt=0, description="Longest input audio accepted, in decoded seconds."
    )
    max_input_bytes: int = Field(default=2 * 1024**3, gt=0, description="Largest input file accepted.")
    plugins: Names = Field(default=(), description="Python modules that register further models.")
    slots: Counts = Field(
        default_factory=dict, description="Slots per model where the measured number is not wanted."
    )
    models_dir: Folder = Field(
        default_factory=_default_models_dir,
        description="Folder of the checkpoints: that of a model lies in a folder of the model's name.",
    )
    checkpoint_dirs: FoldersByModel = Field(
        default_factory=dict, description="Checkpoints that lie elsewhere: MODEL=FOLDER,MODEL=FOLDER."
    )
    model_options: SettingsByModel = Field(
        default_factory=dict,
        description="Choices per model: MODEL:slots=8,share=0.5,dtype=bf16,graphs=off;MODEL:…",
    )
    huggingface_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Hugging Face or a mirror of it; none: what HF_ENDPOINT names, else huggingface.co.",
    )
    modelscope_url: str = Field(
        default="https://www.modelscope.cn",
        pattern=r"^https?://",
        description="ModelScope or a mirror of it.",
    )

    lease_s: float = Field(
        default=30, gt=0, description="How long an attempt owns its job without a heartbeat."
    )
    heartbeat_s: float = Field(default=10, gt=0, description="How often a worker renews its leases.")
    reaper_s: float = Field(default=5, gt=0, description="How often expired leases are looked for.")
    leader_lease_s: float = Field(
        default=10, gt=0, description="How long one host leads dispatcher and reaper without renewing."
    )
    dispatch_interval_s: float = Field(
        default=0.1, gt=0, description="How often the dispatcher tops up the window."
    )
    max_failures: int = Field(
        default=3, ge=1, description="Errors of its own after which a job is discarded."
    )
    max_crashes: int = Field(
        default=3, ge=1, description="Crashes of its own after which a job is discarded."
    )
    window_min: int = Field(
        default=32, ge=1, description="Fewest messages kept waiting per queue and priority."
    )
    window_max: int = Field(
        default=2000, ge=1, description="Most messages kept waiting per queue and priority."
    )
    group_linger_ms: float = Field(
        default=10,
        ge=0,
        le=1000,
        description="How long a claim or settle waits for others to commit with it.",
    )
    max_deadline_s: float = Field(
        default=_DAY_S, gt=0, description="Longest deadline that a submitter may ask for."
    )
    artifact_grace_s: float = Field(
        default=_DAY_S + 2 * 3600,
        gt=0,
        description="Age below which no blob is collected; longer than the longest deadline.",
    )
    collect_every_s: float = Field(
        default=_DAY_S, gt=0, description="How often files that nothing refers to are collected."
    )
    collect_strays: bool = Field(
        default_factory=_default_collect_strays,
        description="Whether files that the job table does not know are collected, too: only where no other "
        "job table keeps its files in the same storage.",
    )
    prune_every_s: float = Field(
        default=60, gt=0, description="How often jobs are looked for whose time is over."
    )
    keep_days: Days = Field(
        default_factory=dict,
        description="Days after which jobs are pruned, by final state: completed=30,discarded=90,cancelled=30; "
        "a state without is kept for ever.",
    )

    shutdown_grace_s: float = Field(
        default=25, ge=0, description="How long a stopping worker lets running jobs finish."
    )
    watchdog_load_s: float = Field(
        default=600, gt=0, description="Longest load of a model before the worker is restarted."
    )
    watchdog_warm_up_s: float = Field(
        default=600, gt=0, description="Longest warm-up of a model, its captures among it."
    )
    watchdog_prefill_s: float = Field(
        default=60, gt=0, description="Longest turn of at most 1,024 positions of prompts."
    )
    watchdog_step_s: float = Field(
        default=60, gt=0, description="Longest step of a model, and longest silence of a handler."
    )
    watchdog_decode_s: float = Field(
        default=60, gt=0, description="Longest call of an encoder, a codec or an aligner."
    )
    flower_port: int = Field(default=5555, ge=1, le=65535, description="Port of Flower.")
    flower_address: str = Field(
        default="127.0.0.1", min_length=1, description="Address on which Flower listens."
    )
    flower_basic_auth: str | None = Field(
        default=None,
        repr=False,
        pattern=r"^[^:]+:.+$",
        description="USER:PASSWORD for Flower; none: a new password at every start.",
    )
    card_memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="Memory of the host, in GB, beyond which a card's process is killed and its jobs are "
        "suspects; none: the kernel decides.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port on which a supervisor serves the metrics of its cards; none: it serves none.",
    )
    metrics_address: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address on which metrics are served, to anybody who asks.",
    )
    metrics_file: bool = Field(
        default=True, description="Whether single jobs get a metrics.json among their artifacts."
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the arguments only; `load_settings` lays the other sources under them."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    def environment(self) -> dict[str, str]:
        """The variables that give another process these same settings."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {PREFIX + name.upper(): _spelled(value) for name, value in given.items() if value is not None}

    def checkpoint_of(self, model_id: str) -> Path:
        """Where the checkpoint of a model is, or would be."""
        chosen = self.model_options.get(model_id)
        given = None if chosen is None else chosen.checkpoint
        return self.checkpoint_dirs.get(model_id) or given or self.models_dir / model_id

    @property
    def origins(self) -> dict[str, str]:
        """Where each value came from: `default`, `file …`, `environment SOUNDMILL_…` or `flag`."""
        return {name: self._origins.get(name, DEFAULT_ORIGIN) for name in type(self).model_fields}

    def shown(self) -> dict[str, str]:
        """Every value as text that may be printed or logged: without passwords."""
        return {name: _shown(name, getattr(self, name)) for name in type(self).model_fields}

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, url: str | None) -> str | None:
        if url is not None and not all(map(_can_be_read, url.split(";"))):
            # Libraries that read it otherwise quote in their errors what they took for a port: a password.
            raise ValueError("the address cannot be read; write it like redis://:PASSWORD@HOST:PORT/NUMBER, "
                             "with a percent-encoded password")  # fmt: skip
        return url

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = [sentence for holds, sentence in _agreements(self) if not holds]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _can_be_read(url: str) -> bool:
    """Whether the parts of an address are what they seem."""
    try:
        parts = urlsplit(url)
        if (
            parts.scheme in ("redis", "rediss")
            and not parts.path.strip("/").isdecimal()
            and parts.path.strip("/")
        ):
            return False
        return "://" in url and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _agreements(s: Settings) -> list[tuple[bool, str]]:
    """What has to hold between settings, each with the sentence for when it does not."""
    lead_s = max(s.reaper_s, 2 * s.dispatch_interval_s)
    return [
        (2 * s.heartbeat_s < s.lease_s, "heartbeat_s must be less than half of lease_s: lower heartbeat_s"),
        (s.reaper_s <= s.lease_s, "reaper_s must not exceed lease_s: lower reaper_s"),
        (
            s.leader_lease_s > lead_s,
            "leader_lease_s must exceed reaper_s and twice dispatch_interval_s: raise leader_lease_s",
        ),
        (s.window_min <= s.window_max, "window_min must not exceed window_max: lower window_min"),
        (
            s.artifact_grace_s > s.max_deadline_s,
            "artifact_grace_s must exceed max_deadline_s, or a running job loses files: raise it",
        ),
    ]


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Lay file, environment and flags over the defaults.

    Args:
        overrides: Values of flags by setting; `None` means that the flag was not given.

    Raises:
        SettingsError: A name is unknown, a value is of no use, or two contradict each other.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    path = _config_file()
    if path is not None:
        values |= (from_file := _read_toml(path))
        origins |= dict.fromkeys(from_file, f"file {path}")
    values |= (from_environment := _read_environment())
    origins |= {name: f"environment {PREFIX}{name.upper()}" for name in from_environment}
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    _refuse_unknown(given, "flag")
    values |= given
    origins |= dict.fromkeys(given, FLAG_ORIGIN)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        # `from None`: pydantic's own text repeats the values, passwords included.
        raise SettingsError(_explain(error, values, origins)) from None
    settings._origins.update(origins)
    return settings


def _spelled(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        if all(isinstance(number, int | float) for number in value.values()):
            return ",".join(f"{name}={number}" for name, number in value.items())
        return json.dumps({name: _plain(item) for name, item in value.items()})
    return str(value)


def _plain(value: object) -> object:
    return (
        value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, BaseModel) else str(value)
    )


def masked(url: str) -> str:
    """Replace the passwords in an address, or in a list of addresses joined by `;`, with `***`.

    It rather hides too much than too little: a password may hold `/`, `@` or `;` unescaped.
    """
    parts = re.split(r";(?=[A-Za-z][\w+.-]*://)", url)
    hidden = [re.sub(r"^([A-Za-z][\w+.-]*://[^:@/]*):.*@", r"\1:***@", part) for part in parts]
    # A user of Redis's without a password is a password in the wrong place.
    hidden = [re.sub(r"^((?:redis|valkey|sentinel)[\w+.-]*://)[^:@/]+@", r"\1***@", part) for part in hidden]
    return _SECRET_PARAMETER.sub(r"\1***", ";".join(hidden))


def _shown(name: str, value: object) -> str:
    if name == "flower_basic_auth" and value:
        return re.sub(r"(?s)^([^:]*):.*|.+", r"\1:***", str(value))
    if isinstance(value, dict):
        return _spelled(value) if value else ""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return "" if value is None else masked(str(value))


def _config_file() -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        path = absolute(Path(named))
        if not path.is_file():
            raise SettingsError(f"{CONFIG_VARIABLE} names {path}, but there is no such file")
        return path
    found = [
        Path.cwd() / "soundmill.toml",
        _xdg_folder("XDG_CONFIG_HOME", ".config") / "soundmill/config.toml",
    ]
    return next((path for path in found if path.is_file()), None)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    _refuse_unknown(values, f"{path}:")
    # A path in a file is meant from that file's folder, wherever the program is started.
    for name in ("state_dir", "runtime_dir", "models_dir"):
        if isinstance(values.get(name), str):
            values[name] = path.parent / Path(values[name]).expanduser()
    if isinstance(roots := values.get("input_roots"), list):
        values["input_roots"] = [
            path.parent / Path(root).expanduser() if isinstance(root, str) else root for root in roots
        ]
    return values


def _read_environment() -> dict[str, Any]:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    # A warning and no error: other tools of the house may keep variables of their own there.
    for variable in sorted(name for name in os.environ if name.upper().startswith(PREFIX)):
        if variable.upper() not in known:
            hint = _nearest(variable.upper(), known)
            logger.warning("unknown environment variable", extra={"variable": variable, "hint": hint})
    return EnvSettingsSource(Settings)()


def _refuse_unknown(values: Mapping[str, Any], where: str) -> None:
    for name in values:
        if name not in Settings.model_fields:
            raise SettingsError(f"{where} {name!r} is not a setting{_nearest(name, Settings.model_fields)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "; `soundmill config show` lists them all"


def _explain(error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    sentences = []
    for item in error.errors(include_url=False):
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "default_factory_not_called":
            continue  # follows from another error, which is in the list
        if not item["loc"]:
            named = [name for name in Settings.model_fields if re.search(rf"\b{name}\b", message)]
            sentences.append(f"{message} ({', '.join(_state(name, values, origins) for name in named)})")
        else:
            sentences.append(f"{_state(str(item['loc'][0]), values, origins)}: {message}")
    return ". ".join(sentences)


def _state(name: str, values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    value = values[name] if name in values else Settings.model_fields[name].default
    return f"{name} = {_shown(name, value)} from {origins.get(name, DEFAULT_ORIGIN)}"
