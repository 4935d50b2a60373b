"""What the doctor finds, on hosts that are described to it and on this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from soundmill.models.device.installation import (
    cann_version,
    cuda_driver_version,
    device_files,
    environment_troubles,
    npu_driver_version,
)
from soundmill.models.errors import ModelUnavailable
from soundmill.producer.cli import build_app
from soundmill.storage.settings import Settings
from soundmill.worker import card_findings as cards
from soundmill.worker import doctor
from soundmill.worker.finding import Finding

CPU = {
    "card": "cpu:0", "name": "EPYC", "ok": True, "detail": "multiplies", "total": 8 * 1024**3,
    "usable": 6 * 1024**3, "dtypes": ["bf16", "fp16", "fp32"], "graphs": False, "fft": "verified",
}  # fmt: skip
NPU = CPU | {"card": "npu:0", "name": "Ascend910B3", "graphs": True, "fft": "unverified"}
TOLD: dict[str, Any] = {"torch": "2.13.0+cpu", "threads": 8, "cards": [CPU], "troubles": {}}


class Host:
    """A host that the doctor is told of: its packages, device files, drivers, and what torch found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packages: dict[str, str] = {"torch": "2.13.0", "transformers": "5.23.0"}
        self.files: dict[str, int] = {}
        self.told: dict[str, Any] | None = TOLD
        self.words = ""
        monkeypatch.setattr(cards, "_version", self.packages.get)
        monkeypatch.setattr(cards, "device_files", lambda kind: self.files.get(kind, 0))
        monkeypatch.setattr(cards, "_ask", lambda: (self.told, self.words))
        monkeypatch.setattr(cards, "cann_version", lambda _: "9.1.0")
        monkeypatch.setattr(cards, "npu_driver_version", lambda: "25.5.1")
        monkeypatch.setattr(cards, "cuda_driver_version", lambda: "580.65.06")

    def find(self) -> dict[str, Finding]:
        return {finding.what: finding for finding in cards.card_findings()}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_a_processor_alone_is_fine(host: Host) -> None:
    found = host.find()
    assert [(finding.what, finding.verdict) for finding in found.values()] == [
        ("torch", "ok"),
        ("card cpu:0", "ok"),
    ]
    assert found["torch"].detail == "2.13.0+cpu, transformers 5.23.0, 8 thread(s)"
    assert (
        found["card cpu:0"].detail == "EPYC, 6.0 of 8.0 GiB free, bf16, fp16, fp32, no graphs, FFT verified"
    )


def test_a_host_without_torch_lacks_something_optional(host: Host) -> None:
    host.packages.clear()
    assert [(finding.verdict, finding.detail) for finding in host.find().values()] == [
        ("missing", "no model with weights runs here; pip install 'soundmill[models]'")
    ]


def test_an_npu_is_shown_with_all_its_versions(host: Host) -> None:
    host.packages["torch_npu"], host.files["npu"] = "2.13.0", 1
    host.told = TOLD | {"cards": [NPU, CPU]}
    found = host.find()
    assert (found["npu"].verdict, found["npu"].detail) == (
        "ok",
        "torch_npu 2.13.0, CANN 9.1.0, driver 25.5.1",
    )
    assert found["card npu:0"].detail.endswith("graphs, FFT unverified")


@pytest.mark.parametrize(
    ("package", "files", "told", "verdict", "words"),
    [
        (None, 8, {}, "missing", "8 NPU(s) but no torch_npu (torch_npu -, CANN 9.1.0, driver 25.5.1); pip install"),
        ("2.12.0", 1, {}, "broken", "torch_npu 2.12.0 is for another torch than 2.13.0+cpu; install the pair"),
        ("2.13.0", 1, {}, "broken", "no NPU can be used; check the driver, and that this process may open /dev"),
        ("2.13.0", 0, {}, "missing", "no NPU can be used"),
        ("2.13.0", 1, {"troubles": {"npu": "torch_npu is installed but broken: libhccl.so"}}, "broken", "libhccl.so"),
    ],
)  # fmt: skip
def test_what_keeps_an_npu_from_being_used_is_told_with_its_remedy(
    package: str | None, files: int, told: dict[str, Any], verdict: str, words: str, host: Host
) -> None:
    if package:
        host.packages["torch_npu"] = package
    host.files["npu"], host.told = files, TOLD | told
    finding = host.find()["npu"]
    assert finding.verdict == verdict
    assert words in finding.detail


def test_cuda_cards_that_torch_was_not_built_for_are_told(host: Host) -> None:
    host.files["cuda"] = 2
    finding = host.find()["cuda"]
    assert finding.verdict == "missing"
    assert (
        finding.detail
        == "2 CUDA card(s), which torch 2.13.0+cpu does not use; install a torch built for CUDA"
    )
    host.told = TOLD | {"cards": [CPU | {"card": "cuda:0"}]}
    assert host.find()["cuda"].detail == "driver 580.65.06"


def test_a_card_that_gives_a_wrong_answer_is_broken(host: Host) -> None:
    detail = "npu:0 gave a wrong answer to a matrix product"
    host.told = TOLD | {"cards": [{"card": "npu:0", "name": "Ascend910B3", "ok": False, "detail": detail}]}
    finding = host.find()["card npu:0"]
    assert (finding.verdict, finding.detail.startswith(detail)) == ("broken", True)
    assert "reset it, or leave it out" in finding.detail


def test_a_torch_that_cannot_be_imported_is_broken(host: Host) -> None:
    host.told = TOLD | {
        "torch": None,
        "cards": [],
        "troubles": {"npu": "torch cannot be imported: no libhccl.so"},
    }
    assert host.find()["torch"].detail == "torch cannot be imported: no libhccl.so"
    host.told, host.words = None, "opening the cards ended with status -11"
    assert host.find()["torch"] == Finding(what="torch", verdict="broken", detail=host.words)


@pytest.fixture
def ask_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the process that would import torch run other code."""
    real = subprocess.run

    def use(code: str) -> None:
        def run(command: list[str], **options: Any) -> Any:
            return real([sys.executable, "-c", code, command[-1]], **options)

        monkeypatch.setattr(subprocess, "run", run)

    return use


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.abort()", "opening the cards ended with status -6: not a word; install torch"),
        (
            "import sys; sys.exit('undefined symbol: aclInit')",
            "ended with status 1: undefined symbol: aclInit; install",
        ),
        ("import time; time.sleep(60)", "no answer in 1 s; reset the card or its driver"),
    ],
)
def test_a_torch_that_takes_its_process_down_is_a_finding(
    code: str, words: str, ask_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "LIMIT_S", 1.0)
    ask_with(code)
    told, said = cards._ask()
    assert told is None
    assert words in said


def test_what_a_library_prints_does_not_matter(ask_with: Any) -> None:
    ask_with(
        "import json, sys; print('Warning: ASCEND_HOME_PATH'); open(sys.argv[1], 'w').write(json.dumps({'a': 1}))"
    )
    assert cards._ask() == ({"a": 1}, "")


@pytest.mark.slow
def test_this_host_is_looked_at_by_a_process_of_its_own() -> None:
    pytest.importorskip("torch")
    told, words = cards._ask()
    assert words == ""
    assert told is not None
    assert told["cards"][-1]["card"] == "cpu:0"
    assert told["cards"][-1]["ok"], told
    assert told["cards"][-1]["total"] > 0


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TORCH_TRANSFER_TO_NPU": "1"}, "TORCH_TRANSFER_TO_NPU is set"),
        ({"TORCH_NPU_ALLOC_CONF": "x"}, "is read by nothing; rename it to PYTORCH_NPU_ALLOC_CONF"),
        ({"PYTORCH_ALLOC_CONF": "x", "PYTORCH_NPU_ALLOC_CONF": "x"}, "are refused together; unset one"),
        ({"TASK_QUEUE_ENABLE": "2"}, "forbids graphs"),
        ({"TORCH_NPU_COMPACT_ERROR_OUTPUT": "1"}, "hides the codes"),
        ({"ASCEND_RT_VISIBLE_DEVICES": "0, 1"}, "write numbers and commas"),
        ({"ASCEND_RT_VISIBLE_DEVICES": "3,1"}, "sort them"),
    ],
)
def test_a_variable_that_does_harm_is_told(environment: dict[str, str], words: str) -> None:
    (trouble,) = environment_troubles(environment)
    assert words in trouble


def test_harmless_variables_are_not() -> None:
    fine = {"TASK_QUEUE_ENABLE": "1", "PYTORCH_NPU_ALLOC_CONF": "x", "ASCEND_RT_VISIBLE_DEVICES": "2,10"}
    assert not list(environment_troubles(fine | {"TORCH_TRANSFER_TO_NPU": "0"}))


def test_versions_are_read_where_the_installers_leave_them(tmp_path: Path) -> None:
    import platform

    assert (cann_version({}, tmp_path), npu_driver_version(tmp_path), cuda_driver_version(tmp_path)) == (
        None,
    ) * 3
    toolkit = tmp_path / "usr/local/Ascend/ascend-toolkit/latest" / f"{platform.machine()}-linux"
    toolkit.mkdir(parents=True)
    (toolkit / "ascend_toolkit_install.info").write_text("package_name=Ascend-cann-toolkit\nversion=9.1.0\n")
    driver = tmp_path / "usr/local/Ascend/driver"
    driver.mkdir()
    (driver / "version.info").write_text("Version=25.5.1\nascendhal_version=7.35\n")
    cuda = tmp_path / "proc/driver/nvidia"
    cuda.mkdir(parents=True)
    (cuda / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    )
    (tmp_path / "dev").mkdir()
    for name in ("davinci0", "davinci11", "davinci_manager", "nvidia0", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    assert cann_version({}, tmp_path) == "9.1.0"
    assert cann_version({"ASCEND_HOME_PATH": str(toolkit.parent)}, Path("/nowhere")) == "9.1.0"
    assert npu_driver_version(tmp_path) == "25.5.1"
    assert cuda_driver_version(tmp_path) == "580.65.06"
    assert (device_files("npu", tmp_path), device_files("cuda", tmp_path)) == (2, 1)


# -- the whole ---------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> Settings:

    return Settings(state_dir=tmp_path / "state", storage_url=f"file://{tmp_path}/artifacts")


def test_every_part_of_a_worker_is_looked_at(settings: Settings) -> None:
    found = {finding.what: finding for finding in doctor.examine(settings)}
    parts = {"python", "libraries", "torch", "card cpu:0", "broker", "database", "storage", "espeak"}
    assert parts <= found.keys()
    assert {found[part].verdict for part in parts} == {"ok"}
    assert found["libraries"].detail.startswith("soundmill 0.")
    assert found["model acoustic"].verdict == found["model espeak-ng"].verdict == "ok"


def test_an_espeak_that_is_missing_is_told_with_its_remedy(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> Any:
        raise ModelUnavailable("eSpeak NG is missing; pip install 'soundmill[speech]'")

    monkeypatch.setattr(doctor, "Espeak", absent)
    finding = doctor._espeak()
    assert (finding.verdict, "pip install" in finding.detail) == ("missing", True)


def test_the_command_ends_with_one_if_something_needed_is_broken(
    settings: Settings, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "_models", lambda _: iter(()))
    fine = CliRunner().invoke(build_app(), ["doctor", "--json"])
    assert fine.exit_code == 0, fine.output
    assert {"what": "card cpu:0", "verdict": "ok"}.items() <= next(
        finding.items() for finding in json.loads(fine.stdout) if finding["what"] == "card cpu:0"
    )
    host.told, host.words = None, "opening the cards ended with status -11; install torch anew"
    broken = CliRunner().invoke(build_app(), ["doctor"], env={"COLUMNS": "200"})
    assert broken.exit_code == 1
    assert "ended with status -11; install torch anew" in broken.stdout


def test_a_model_that_does_not_load_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from soundmill.storage.catalog import load_catalog

    model = load_catalog().get("acoustic")
    for error, verdict in (
        (ModelUnavailable("weights are missing"), "missing"),
        (ZeroDivisionError("x"), "broken"),
    ):

        def load(self: Any, place: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("soundmill.models.acoustic.Acoustic.load", load)
        finding = doctor._model(model)
        assert (finding.verdict, str(error) in finding.detail) == (verdict, True)
