"""What the tests of the captioner share."""

from __future__ import annotations

from pathlib import Path

import pytest

from soundmill.models.captioner.weights import Weights
from soundmill.models.device import Device, open_device

from .golden import FOLDER, weights_on


@pytest.fixture(scope="session")
def device() -> Device:
    return open_device("cpu", threads=1)


@pytest.fixture(scope="session")
def weights() -> Weights:
    return weights_on(open_device("cpu", threads=1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the checkpoint to be damaged."""
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for path in FOLDER.iterdir():
        if "golden" not in path.name:
            (copy / path.name).write_bytes(path.read_bytes())
    return copy
