"""What is installed on this host for its cards, as far as files and variables tell; no torch here."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import ModelUnavailable
from .card import Card
from .environment import refuse_transfer

_ROOT = Path("/")


def cann_version(environment: Mapping[str, str], root: Path = _ROOT) -> str | None:
    """The version of CANN that this process would use, or of the one in the usual place."""
    name = f"{platform.machine()}-linux/ascend_toolkit_install.info"
    home = environment.get("ASCEND_HOME_PATH")
    places = [Path(home)] if home else []
    places += [root / "usr/local/Ascend" / part for part in ("ascend-toolkit/latest", "cann")]
    return next((found for place in places if (found := _version(place / name))), None)


def npu_driver_version(root: Path = _ROOT) -> str | None:
    """The version of the NPUs' driver."""
    return _version(root / "usr/local/Ascend/driver/version.info")


def cuda_driver_version(root: Path = _ROOT) -> str | None:
    """The version of the CUDA cards' driver."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    match = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", text)
    return match[1] if match else None


def _version(path: Path) -> str | None:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    match = re.search(r"^version\s*=\s*(\S+)", text, re.IGNORECASE | re.MULTILINE)
    return match[1] if match else None


def device_files(kind: str, root: Path = _ROOT) -> int:
    """How many cards of a kind the kernel shows this process, whatever torch can do with them."""
    pattern = {"npu": "davinci[0-9]*", "cuda": "nvidia[0-9]*"}[kind]
    return len(list((root / "dev").glob(pattern)))


def best_card(root: Path = _ROOT) -> Card:
    """The first card of the best kind that the kernel shows this process; no library is asked."""
    kind = next((kind for kind in ("npu", "cuda") if device_files(kind, root)), "cpu")
    return Card(kind, 0)


def environment_troubles(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """What is set so that a card would fail or a setting be without effect, a sentence for each."""
    try:
        refuse_transfer(environment.get("TORCH_TRANSFER_TO_NPU", ""))
    except ModelUnavailable as error:
        yield str(error)
    if "TORCH_NPU_ALLOC_CONF" in environment:
        yield "TORCH_NPU_ALLOC_CONF is read by nothing; rename it to PYTORCH_NPU_ALLOC_CONF"
    if {"PYTORCH_ALLOC_CONF", "PYTORCH_NPU_ALLOC_CONF"} <= environment.keys():
        yield "PYTORCH_ALLOC_CONF and PYTORCH_NPU_ALLOC_CONF are refused together; unset one of them"
    if environment.get("TASK_QUEUE_ENABLE") == "2":
        yield "TASK_QUEUE_ENABLE=2 forbids graphs and takes more memory; set it to 1"
    if environment.get("TORCH_NPU_COMPACT_ERROR_OUTPUT") == "1":
        yield "TORCH_NPU_COMPACT_ERROR_OUTPUT=1 hides the codes that tell one error from another; unset it"
    visible = environment.get("ASCEND_RT_VISIBLE_DEVICES", "")
    if visible and not re.fullmatch(r"\d+(,\d+)*", visible):
        yield f"ASCEND_RT_VISIBLE_DEVICES={visible!r} is read up to its first odd character; write numbers and commas"
    elif visible.split(",") != sorted(visible.split(","), key=lambda part: int(part or 0)):
        yield f"ASCEND_RT_VISIBLE_DEVICES={visible} counts as no card unless its numbers ascend; sort them"
