"""SECURITY.md names what is there, and what it says of dependencies and processes holds."""

from __future__ import annotations

import json
import re
import tomllib
import zipfile
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from soundmill.storage import sound, sound_examiner
from soundmill.storage.settings import Settings
from soundmill.worker import messages
from soundmill.worker.metrics.card import CardMeasures

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _advisories() -> Any:
    spec = spec_from_file_location("advisories", ROOT / "scripts" / "advisories.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ADVISORIES = _advisories()


def test_every_setting_it_names_is_one() -> None:
    table = PAGE.split("## Defaults")[1].split("## ")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert len(named) >= 10
    assert named <= Settings.model_fields.keys()
    elsewhere = set(re.findall(r"`([a-z]+_[a-z_]+)`", PAGE)) - {
        "weights_only",
        "soundmill_messages_refused_total",
    }
    assert elsewhere <= Settings.model_fields.keys()


def test_the_defaults_are_those_it_states(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    stated = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE))
    assert (settings.url_hosts, stated["url_hosts"]) == ((), "none")
    assert (settings.plugins, stated["plugins"]) == ((), "none")
    assert (settings.max_input_bytes, stated["max_input_bytes"]) == (2 * 1024**3, "2 GiB")
    assert (settings.max_audio_s, stated["max_audio_s"]) == (3 * 3600, "3 h")
    assert (settings.url_timeout_s, stated["url_timeout_s"]) == (60, "60 s")
    assert stated["flower_address"] == f"`{settings.flower_address}`"
    assert stated["tenant"] == f"`{settings.tenant}`"
    assert settings.input_roots == (Path.cwd(),)
    assert settings.flower_basic_auth is settings.broker_url is None
    assert str(tmp_path) in settings.database_url + settings.storage_url


def test_the_limits_are_those_it_states() -> None:
    assert f"{sound_examiner.MEMORY_BYTES // 1024**2} MiB more" in PAGE
    assert f"{sound_examiner.CPU_LEAST_S} s of processor time and a twentieth" in PAGE
    assert sound_examiner.CPU_PER_AUDIO_S == 1 / 20
    assert f"channels ({sound.MAX_CHANNELS})" in PAGE
    assert f"rate ({sound.MAX_RATE_HZ // 1000} kHz)" in PAGE.replace("\n", " ")
    assert f"{sound.MOST_SAMPLES_PER_S:,} for each second" in PAGE
    assert f"more than {messages.LARGEST_WAKE_UP // 1024} KiB" in PAGE


def test_the_metric_it_names_counts_messages_by_reason() -> None:
    measures = CardMeasures("cpu:0")
    messages.Refusals(measures.refused).add("malformed", "m")
    labels = {"device": "cpu:0", "reason": "malformed"}
    assert "`soundmill_messages_refused_total`" in PAGE
    assert measures.registry.get_sample_value("soundmill_messages_refused_total", labels) == 1


def test_every_file_it_names_is_there() -> None:
    named = re.findall(r"`((?:scripts|docker)/[\w./-]+)", PAGE)
    assert {"scripts/audit", "scripts/fuzz"} <= set(named)
    assert all((ROOT / name).is_file() for name in named)


def test_no_process_of_ours_imports_from_the_folder_it_is_started_in() -> None:
    started = []
    for folder in ("models", "producer", "storage", "worker"):
        for path in (ROOT / folder).rglob("*.py"):
            started += re.findall(r'sys\.executable, *("[^"]+")', path.read_text(encoding="utf-8"))
    assert len(started) >= 9
    assert set(started) <= {'"-P"', '"-I"'}


@pytest.mark.parametrize(
    ("name", "weak", "why"),
    [
        ("torch", "2.5.1", "CVE-2025-32434: weights_only did not hold"),
        ("torch", "2.9.1", "CVE-2026-24747: weights_only did not hold"),
        ("celery", "5.2.1", "CVE-2021-23727: commands in results"),
        ("flower", "1.1.0", "CVE-2022-30034: OAuth let everybody in"),
    ],
)
def test_no_weak_release_satisfies_our_ranges(name: str, weak: str, why: str) -> None:
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = [r for lines in lists for line in lines if (r := Requirement(line)).name == name]
    assert found
    assert not any(requirement.specifier.contains(weak) for requirement in found), why


@pytest.mark.parametrize(
    ("mine", "events", "within"),
    [
        ("1.4", [{"introduced": "0"}, {"fixed": "1.5"}], True),
        ("1.5", [{"introduced": "0"}, {"fixed": "1.5"}], False),
        ("1.10", [{"introduced": "0"}, {"fixed": "1.5"}], False),
        ("2.0", [{"introduced": "0"}, {"fixed": "1.5"}, {"introduced": "2.0"}], True),
        ("1.9", [{"introduced": "0"}, {"fixed": "1.5"}, {"introduced": "2.0"}], False),
        ("1.5", [{"introduced": "1.0"}, {"last_affected": "1.5"}], True),
        ("1.5.1", [{"introduced": "1.0"}, {"last_affected": "1.5"}], False),
        ("1.5rc1", [{"introduced": "0"}, {"fixed": "1.5"}], True),
        ("0.9", [{"introduced": "1.0"}], False),
        ("1.0", [{"introduced": "nonsense"}], True),
    ],
)
def test_a_range_of_an_advisory_is_read_as_its_schema_says(
    mine: str, events: list[dict[str, str]], within: bool
) -> None:
    assert ADVISORIES.is_within(mine, events) is within


def test_an_archive_of_advisories_is_compared_with_what_is_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def about(name: str, **more: Any) -> dict[str, Any]:
        return {"package": {"ecosystem": "PyPI", "name": name}} | more

    everything = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9999"}]}]
    written: dict[str, dict[str, Any]] = {
        "A-1": {"affected": [about("Celery", ranges=everything)], "aliases": ["CVE-1"]},
        "A-2": {"affected": [about("kombu", versions=[version("kombu")])]},
        "A-3": {"affected": [about("no-such-thing", ranges=everything)]},
        "A-4": {"affected": [about("redis", ranges=everything)], "withdrawn": "2026-01-01T00:00:00Z"},
        "A-5": {"affected": [about("numpy", versions=["0.1"])]},
        "A-6": {"affected": [{"package": {"ecosystem": "npm", "name": "redis"}, "ranges": everything}]},
    }
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as files:
        for identity, content in written.items():
            files.writestr(f"{identity}.json", json.dumps({"id": identity} | content))
    assert ADVISORIES.main([str(archive)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"celery {version('celery')}: A-1, CVE-1; fixed in 9999",
        f"kombu {version('kombu')}: A-2; fixed in no release",
    ]
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("A-5.json", json.dumps({"id": "A-5"} | written["A-5"]))
    assert ADVISORIES.main([str(archive)]) == 0
    assert ADVISORIES.main([]) == 2
