"""The deployment that is shipped: docker-compose.yml and what it builds; no image is built here."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from soundmill.models.device import Card
from soundmill.storage.database import Database
from soundmill.storage.schema import migrate
from soundmill.storage.settings import CONFIG_VARIABLE, PREFIX, Settings, masked
from soundmill.worker.flower import MAX_TASKS
from soundmill.worker.supervisor import KILL_AFTER_GRACE_S

from .worker.running import PLUGINS, Stack

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = YAML(typ="safe").load(COMPOSE.read_text())["services"]
WORKERS = ["cpu", "npu0"]
OURS = [*WORKERS, "migrate", "exporter", "flower"]

each_service = pytest.mark.parametrize("name", SERVICES)
each_worker = pytest.mark.parametrize("name", WORKERS)


def environment_of(name: str) -> dict[str, str]:
    return dict(SERVICES[name].get("environment", {}))


def copied() -> list[str]:
    """What the Dockerfile takes from the checkout."""
    lines = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()]


def compose() -> list[str]:
    """Compose's command, which reads a file without an engine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*command, "version"], check=False, capture_output=True).returncode == 0:
                return command
    pytest.skip("Docker Compose is not installed")


def test_the_file_follows_the_compose_specification() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(COMPOSE),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("profile", ["cpu", "npu"])
def test_compose_itself_reads_the_file(profile: str) -> None:
    command = [*compose(), "--file", str(COMPOSE), "--profile", profile, "config", "--quiet"]
    passwords = {"POSTGRES_PASSWORD": "p@ss/word", "FLOWER_BASIC_AUTH": "name:p$ss"}

    subprocess.run(command, env=os.environ | passwords, check=True)
    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode != 0, "it must not start without passwords"
    assert "set it" in done.stdout + done.stderr


@each_service
def test_every_variable_of_ours_is_a_setting(name: str) -> None:
    ours = {variable for variable in environment_of(name) if variable.startswith(PREFIX)}

    assert ours <= {PREFIX + setting.upper() for setting in Settings.model_fields} | {CONFIG_VARIABLE}


@each_service
def test_passwords_come_from_the_environment_and_have_no_default(name: str) -> None:
    for variable, value in environment_of(name).items():
        if re.search("PASSWORD|AUTH|SECRET|TOKEN", variable):
            assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), variable
        assert masked(value) == value, f"a password stands in the address {variable}"


@each_service
def test_a_service_is_unprivileged_and_tells_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert not service.get("privileged")
    assert "healthcheck" in service or name == "migrate"


@each_service
def test_only_the_proxy_is_reachable_and_only_from_this_host(name: str) -> None:
    ports = SERVICES[name].get("ports", [])

    assert bool(ports) == (name == "proxy")
    assert all(port.startswith("127.0.0.1:") for port in ports)


@each_service
def test_what_a_service_waits_for_can_tell_that_it_is_ready(name: str) -> None:
    waits = SERVICES[name].get("depends_on", {})

    for other in waits:
        assert other in SERVICES
        if isinstance(waits, dict) and waits[other]["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]


@each_worker
def test_a_stopping_worker_is_given_the_time_it_takes(name: str) -> None:
    seconds = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))

    assert seconds > Settings.model_fields["shutdown_grace_s"].default + KILL_AFTER_GRACE_S


@each_worker
def test_what_prometheus_is_told_to_ask_is_what_is_served(name: str) -> None:
    header = COMPOSE.read_text().partition("\nx-")[0]

    assert f"{name}:{environment_of(name)['SOUNDMILL_METRICS_PORT']}" in header
    assert f"exporter:{SERVICES['exporter']['command'][-1]}" in header


@each_worker
def test_a_worker_has_one_card_and_is_asked_for_by_the_name_of_that_card(name: str) -> None:
    service = SERVICES[name]
    card = service["command"][-1]

    assert service["command"][:-1] == ["soundmill", "worker", "--card"]
    assert service["profiles"] == [card.partition(":")[0]]
    assert service["healthcheck"]["test"][1].endswith(f" {card.replace(':', '-')}@$$HOSTNAME")


@pytest.mark.slow
def test_the_health_check_of_a_worker_is_answered_by_its_card_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PLUGINS)
    _, check = SERVICES["cpu"]["healthcheck"]["test"]
    check = check.replace("$$", "$").replace("--timeout 10", "--timeout 3")
    with closing(Stack(tmp_path, f"sqlite:///{tmp_path}/soundmill.db")) as stack:
        stack.start("cpu:0")
        here = stack.environment() | {"HOSTNAME": socket.gethostname()}
        here["PATH"] = f"{Path(sys.executable).parent}:{here['PATH']}"

        assert subprocess.run(["sh", "-c", check], env=here, check=False).returncode == 0
        other = check.replace("cpu-0", "cpu-1")
        assert subprocess.run(["sh", "-c", other], env=here, check=False).returncode != 0


@each_worker
def test_a_worker_reads_checkpoints_of_the_host_and_cannot_change_them(name: str) -> None:
    folder = environment_of(name)["SOUNDMILL_MODELS_DIR"]

    assert f"${{CHECKPOINTS:-./checkpoints}}:{folder}:ro" in SERVICES[name]["volumes"]


@each_worker
def test_the_image_of_a_worker_can_use_postgresql_and_a_bucket(name: str) -> None:
    extras = re.sub(r"\$\{\w+:-(.*)\}", r"\1", SERVICES[name]["build"]["args"]["EXTRAS"]).split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert {"postgres", "s3", "speech"} <= set(extras) <= set(known)


def test_an_ascend_worker_gets_its_device_nodes_driver_and_environment() -> None:
    service, settings = SERVICES["npu0"], environment_of("npu0")

    assert service["devices"] == ["/dev/davinci0", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"]
    host = {source for source in (volume.split(":")[0] for volume in service["volumes"]) if source[0] == "/"}
    assert host == {
        "/usr/local/dcmi", "/usr/local/bin/npu-smi", "/usr/local/Ascend/driver/lib64",
        "/usr/local/Ascend/driver/version.info", "/etc/ascend_install.info",
    }  # fmt: skip
    assert settings.items() >= Card("npu", 0).environment({}).items()
    assert settings.items() >= environment_of("cpu").items()


def test_redis_keeps_messages_and_refuses_what_it_cannot_hold() -> None:
    words = SERVICES["redis"]["command"]
    given = dict(zip(words[1::2], words[2::2], strict=True))

    assert given["--appendonly"] == "yes"
    assert given["--appendfsync"] == "everysec"
    assert given["--maxmemory-policy"] == "noeviction"


def test_the_migration_is_one_command_that_creates_the_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    program, *rest = SERVICES["migrate"]["command"]
    assert program == "python"

    subprocess.run([sys.executable, *rest], env=os.environ | {"SOUNDMILL_DATABASE_URL": url}, check=True)

    database = Database(url)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar() == 0
    migrate(database)
    database.close()


def test_flower_is_the_one_that_up_runs() -> None:
    command = SERVICES["flower"]["command"]

    assert command[:3] == ["python", "-m", "soundmill.worker.flower"]
    assert f"--max_tasks={MAX_TASKS}" in command
    assert SERVICES["flower"]["stdin_open"], "it ends with its standard input"


def test_the_proxy_has_the_shipped_configuration() -> None:
    source, _, rest = SERVICES["proxy"]["volumes"][0].partition(":")

    assert (ROOT / source).is_file()
    assert rest == "/etc/nginx/conf.d/default.conf:ro"
    assert "http://flower:5555" in (ROOT / source).read_text()


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_our_image(name: str) -> None:
    build = SERVICES[name]["build"]

    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    assert {f"ARG {arg}" for arg in build.get("args", {})} <= {
        line.partition("=")[0] for line in DOCKERFILE.splitlines()
    }


def test_the_image_is_built_from_files_that_are_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")

    assert copied()
    assert all((ROOT / source).exists() for source in copied())
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied())
    assert "*" in ignored


def test_the_image_holds_the_wheel_without_the_source_and_runs_as_nobody_in_particular() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]

    assert "COPY" not in last
    assert "--mount=type=bind,from=wheel" in last
    users = re.findall(r"^USER (\S+)$", last, re.MULTILINE)
    assert users[-1:] == ["soundmill"]
