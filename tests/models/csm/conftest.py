"""What the tests of CSM share: the tiny checkpoint, loaded once, and what transformers makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soundmill.models.csm.checkpoint import Checkpoint, load_checkpoint
from soundmill.models.csm.prompt import Prompt, Prompter, Turn
from soundmill.models.device import Device, open_device
from soundmill.models.engine.sampling import GREEDY

DATA = Path(__file__).resolve().parents[2] / "data" / "csm"
FOLDER = DATA / "checkpoint"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The tiny tensors are four times slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def device() -> Device:
    return open_device("cpu", threads=1)


@pytest.fixture(scope="session")
def checkpoint(_one_thread: None) -> Checkpoint:
    return load_checkpoint(FOLDER, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def golden() -> Mapping[str, Any]:
    with np.load(DATA / "csm.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def golden_cases() -> Mapping[str, Mapping[str, Any]]:
    cases = json.loads((DATA / "csm.json").read_text())["cases"]
    return {case["case"]: case for case in cases}


@pytest.fixture(scope="session")
def prompter(checkpoint: Checkpoint) -> Prompter:
    return Prompter(checkpoint.tokens, checkpoint.sizes)


@pytest.fixture(scope="session")
def golden_prompts(
    prompter: Prompter, golden: Mapping[str, Any], golden_cases: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Prompt]:
    """The prompt of each case, greedy."""
    found = {
        name: prompter.prompt([], int(case["speaker"]), case["text"], sampling=GREEDY, seed=0)
        for name, case in golden_cases.items()
        if name.startswith("text")
    }
    turns = [
        Turn(speaker=0, text="context one", codes=torch.from_numpy(golden["ctx_codes1"])),
        Turn(speaker=1, text="context two", codes=torch.from_numpy(golden["ctx_codes2"])),
    ]
    found["ctx"] = prompter.prompt(turns, 0, golden_cases["text1"]["text"], sampling=GREEDY, seed=0)
    return found
