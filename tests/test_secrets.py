"""Passwords: in no error, no log, no finding, nothing that Flower or a control command is told."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from soundmill.producer.cli import build_app
from soundmill.storage.broker import resolve_broker
from soundmill.storage.database import Database
from soundmill.storage.queue import RESPONSIVE, Publisher, make_app
from soundmill.storage.settings import Settings, load_settings
from soundmill.worker import control
from soundmill.worker.broker_findings import broker_findings
from soundmill.worker.database_findings import database_findings

SECRET = "swordfish"
UNREACHABLE = "redis://me:swordfish@127.0.0.1:1/0"

BROKERS = [
    UNREACHABLE,
    "rediss://:swordfish@127.0.0.1:1/0",
    "redis://me:swordfish@nowhere.invalid/0",
    "redis+socket:///nowhere?password=swordfish",
    "redis://me:swordfish/x@127.0.0.1/0",
    "redis://:swordfish?x@127.0.0.1/0",
    "redis://:swordfish#x@127.0.0.1/0",
    "redis://:swordfish@127.0.0.1:1/x",
    "redis://me:swordfish@[bad/0",
    "swordfish://127.0.0.1",
    "sentinel://:swordfish@127.0.0.1:1;sentinel://:swordfish@127.0.0.1:x",
]
DATABASES = [
    "postgresql+psycopg://me:swordfish@127.0.0.1:1/x",
    "postgresql+psycopg://me:swordfish@nowhere.invalid/x",
    "postgresql+psycopg://me:x@swordfish@127.0.0.1:1/x",
    "postgresql+psycopg://me:swordfish/x@127.0.0.1:1/x",
    "postgresql+psycopg://me:swordfish@127.0.0.1:x/x",
    "postgresql+psycopg://me@127.0.0.1:1/x?sslpassword=swordfish&unknown=1",
    "host=127.0.0.1 password=swordfish",
    "mysql://me:swordfish@127.0.0.1/x",
]


def said(error: BaseException | None) -> str:
    """An error with all that led to it, but for the lines of source."""
    lines = traceback.format_exception(error) if error is not None else []
    return "\n".join(line for text in lines for line in text.splitlines() if not line.startswith("    "))


def failure(action: Callable[[], Any]) -> str:
    try:
        action()
    except Exception as error:  # noqa: BLE001 - whatever a library raises is looked at
        return said(error)
    return ""


@pytest.mark.parametrize("url", BROKERS)
def test_no_error_of_a_broker_tells_its_password(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def use() -> None:
        settings = load_settings({"broker_url": url, "state_dir": tmp_path})
        with resolve_broker(settings) as broker:
            for finding in broker_findings(settings):
                assert SECRET not in f"{finding}"
            Publisher(make_app(broker.url, RESPONSIVE)).lengths(["m"])

    words = failure(use)
    assert words, "nobody answers there"
    shown = words.replace("swordfish://", "")  # no address of Redis: it names a scheme
    assert SECRET not in shown + caplog.text


@pytest.mark.parametrize("url", DATABASES)
def test_no_error_of_a_database_tells_its_password(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = load_settings({"database_url": url, "state_dir": tmp_path})

    def use() -> None:
        database = Database(url)
        with database.read():
            pass

    words = failure(use)
    assert words, "nobody answers there"
    findings = "".join(f"{finding}" for finding in database_findings(settings))
    assert findings
    assert SECRET not in words + findings + caplog.text


def test_settings_that_are_built_directly_do_not_repeat_what_was_wrong() -> None:
    for name in ("broker_url", "flower_basic_auth", "max_failures"):
        with pytest.raises(ValueError, match="validation error") as refused:
            Settings(**{name: "sword:fish swordfish" if name == "broker_url" else "swordfish"})  # type: ignore[arg-type]
        assert SECRET not in str(refused.value)


def test_config_show_tells_where_secrets_came_from_and_not_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUNDMILL_BROKER_URL", UNREACHABLE)
    monkeypatch.setenv("SOUNDMILL_DATABASE_URL", DATABASES[0])
    monkeypatch.setenv("SOUNDMILL_FLOWER_BASIC_AUTH", "me:swordfish")
    monkeypatch.setenv("SOUNDMILL_STORAGE_URL", "s3://me:swordfish@bucket/x?secret_access_key=swordfish")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    for words in ([], ["--json"], ["--origin"], ["--origin", "--json"]):
        shown = CliRunner().invoke(build_app(), ["--state-dir", str(tmp_path), "config", "show", *words])
        assert shown.exit_code == 0
        assert "me:***" in shown.output
        assert SECRET not in shown.output


def test_remote_control_tells_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower shows of a worker: its statistics and its configuration."""
    app = make_app(f"{UNREACHABLE};{UNREACHABLE}", RESPONSIVE, ["m"])
    told = app.connection_for_read().info()
    assert SECRET in json.dumps(told), "Celery has it among the addresses to turn to"
    controller = SimpleNamespace(stats=lambda: {"total": {}, "broker": told, "pid": 7})
    stats = control.stats(SimpleNamespace(consumer=SimpleNamespace(controller=controller)))
    assert stats["pid"] == 7
    assert stats["broker"]["hostname"] == "127.0.0.1"
    conf = json.dumps(app.conf.table(with_defaults=True, censored=True), default=repr)
    assert SECRET not in json.dumps(stats) + conf + app.bugreport() + repr(app.connection_for_read())


def test_commands_that_would_change_a_worker_are_gone() -> None:
    from celery.worker.control import Panel

    assert {"revoke", "terminate", "ping", "stats", "shutdown"} <= set(Panel.data)
    assert not {"pool_grow", "pool_shrink", "add_consumer", "rate_limit", "time_limit", "autoscale"} & set(
        Panel.data
    )
