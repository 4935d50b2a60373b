"""What a figure was taken on: the card, the software and the weights, beside every result that is kept."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .device.installation import cann_version, cuda_driver_version, npu_driver_version

if TYPE_CHECKING:
    from .device import Device

RECORD = "soundmill.json"
"""The file beside the weights in which `soundmill models pull` noted where they came from."""

RANDOM = "random"
"""What stands for the checkpoint where weights were made up."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Where, when and with what a result came about.

    Attributes:
        taken: When, in UTC, to the second.
        soundmill: Version of this package.
        card: Such as `npu:0`.
        device: The card's name as its library gives it, or the processor's.
        driver: Version of the card's driver; of a processor `None`.
        cann: Version of CANN, on an NPU.
        cuda: Version of CUDA that torch was built for, on a CUDA card.
        torch: Version, `None` where it is not installed.
        torch_npu: As `torch`.
        transformers: As `torch`.
        python: Version.
        system: Kernel and its version.
        cores: Of the host.
        threads: With how many of them torch computes.
        dtype: Of the weights that were run, `None` where there are none.
        checkpoint: The name of the weights' folder, or `random`.
        repository: Where they were downloaded, as far as that was noted; several stand beside each other.
        revision: Which commit of it; of several repositories as `OWNER/NAME@COMMIT`.
        host_load: Processes that wanted to run in the last minute, as the kernel counts them.
    """

    taken: str
    soundmill: str
    card: str
    device: str | None
    driver: str | None
    cann: str | None
    cuda: str | None
    torch: str | None
    torch_npu: str | None
    transformers: str | None
    python: str
    system: str
    cores: int | None
    threads: int | None
    dtype: str | None
    checkpoint: str | None
    repository: str | None
    revision: str | None
    host_load: float

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return asdict(self)


def stamp(
    device: Device | None = None,
    *,
    card: str = "cpu:0",
    dtype: str | None = None,
    checkpoint: Path | None = None,
    random_weights: bool = False,
) -> Stamp:
    """Note what there is at this moment.

    Args:
        device: The opened card; `None` for a model that needs no torch.
        card: Its name where there is no device.
        dtype: `fp32`, `fp16` or `bf16`.
        checkpoint: The folder of the weights.
        random_weights: Whether weights were made up instead.
    """
    kind = device.kind if device is not None else "cpu"
    repository, revision = origin(checkpoint) if checkpoint is not None else (None, None)
    return Stamp(
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        soundmill=package_version("soundmill") or "unknown",
        card=str(device) if device is not None else card,
        device=device.name if device is not None else None,
        driver=_driver(kind),
        cann=cann_version(os.environ) if kind == "npu" else None,
        cuda=_cuda() if kind == "cuda" else None,
        torch=package_version("torch"),
        torch_npu=package_version("torch_npu"),
        transformers=package_version("transformers"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        cores=os.cpu_count(),
        threads=_threads() if device is not None else None,
        dtype=dtype,
        checkpoint=RANDOM if random_weights else checkpoint.resolve().name if checkpoint else None,
        repository=repository,
        revision=revision,
        host_load=round(os.getloadavg()[0], 2),
    )


def package_version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def origin(checkpoint: Path) -> tuple[str | None, str | None]:
    """The repository and the revision that a checkpoint's folder came from, as far as something tells.

    Our own download notes them in `soundmill.json`. Of a folder that another tool filled we know what it
    left: the name of a snapshot in Hugging Face's cache, or the notes of its `download --local-dir`.
    """
    origins = _recorded(checkpoint / RECORD)
    if origins:
        names, commits = zip(*origins, strict=True)
        pairs = (f"{name}@{commit}" for name, commit in origins)
        return " ".join(names), commits[0] if len(origins) == 1 else " ".join(pairs)
    folder = checkpoint.resolve()
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/"), folder.name
    for note in sorted((folder / ".cache/huggingface/download").rglob("*.metadata")):
        first = note.read_text(errors="replace").partition("\n")[0].strip()
        if _COMMIT.fullmatch(first):
            return None, first
    return None, None


def _recorded(file: Path) -> list[tuple[str, str]]:
    """The repositories of a record with their commits, or with what was asked for where the hub told none."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["origins"]
        return [(str(entry["name"]), str(entry["commit"] or entry["revision"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _driver(kind: str) -> str | None:
    match kind:
        case "npu":
            return npu_driver_version()
        case "cuda":
            return cuda_driver_version()
        case _:
            return None


def _cuda() -> str | None:
    import torch

    return str(torch.version.cuda) if torch.version.cuda else None


def _threads() -> int:
    import torch

    return int(torch.get_num_threads())
