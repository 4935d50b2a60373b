"""What the tests of the aligner share: the tiny checkpoint on the processor, alone and behind its handler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("numba")

from soundmill.models.aligner.checkpoint import Checkpoint, load_checkpoint
from soundmill.models.aligner.emission import EmissionModel
from soundmill.models.aligner.handler import Aligner
from soundmill.models.device import Device, open_device
from soundmill.models.place import ModelOptions
from soundmill.models.station import Station

from . import golden


@pytest.fixture(scope="session")
def device() -> Device:
    return open_device("cpu", threads=1)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return load_checkpoint(golden.CHECKPOINT)


@pytest.fixture
def model(checkpoint: Checkpoint, device: Device) -> EmissionModel:
    return EmissionModel(checkpoint, device)


@pytest.fixture(scope="session")
def aligner() -> Iterator[Aligner]:
    """The handler with its card's engine and helpers, as a worker has it."""
    station = Station("cpu:0", threads=1)
    handler = Aligner()
    handler.load(station.place(ModelOptions(checkpoint=golden.CHECKPOINT)))
    station.open()
    yield handler
    handler.close()
    station.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for path in golden.CHECKPOINT.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy
