"""What the tests of measurements share: the tiny checkpoints of all families, and plans that take a second."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from soundmill.models.bench import Plan, bandwidth
from soundmill.models.conversion import convert

DATA = Path(__file__).resolve().parents[2] / "data"

FOLDERS = {
    "acestep-captioner": DATA / "captioner",
    "csm-1b": DATA / "csm" / "checkpoint",
    "ming-omni-tts-0.5b": DATA / "ming" / "checkpoint",
    "mms-300m-aligner": DATA / "aligner" / "checkpoint",
}
MOSS = "moss-tts-nano-100m"
MODELS = (*FOLDERS, MOSS)

FRAMES = 6
"""More than Ming makes at least, and than the tiny models make by themselves."""

PlanOf = Callable[..., Plan]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a copy of them takes says nothing about memory, and a test's processor has others to serve."""
    monkeypatch.setattr(bandwidth, "_PROCESSOR_BYTES", 1 << 22)


@pytest.fixture(scope="session")
def moss_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language model with its weights converted, the codec inside."""
    folder = tmp_path_factory.mktemp("moss") / "tts"
    shutil.copytree(DATA / "moss" / "tts", folder)
    shutil.copytree(DATA / "moss" / "codec", folder / "codec")
    convert(folder)
    (folder / "pytorch_model.bin").unlink()
    return folder


@pytest.fixture(scope="session")
def plan_of(moss_folder: Path) -> PlanOf:
    """A plan for a tiny model: one and two rows of `FRAMES`, each run once, on the processor."""

    def made(model: str, **more: Any) -> Plan:
        frames = () if model == "mms-300m-aligner" else (FRAMES,)
        usual: dict[str, Any] = {
            "checkpoint": FOLDERS.get(model, moss_folder), "device": "cpu", "slots": (1, 2), "frames": frames,
            "texts": ("short",), "runs": 1, "warmup": 0, "threads": 1,
        }  # fmt: skip
        return Plan(model=model, **usual | more)

    return made
