"""What `soundmill doctor` says of the cards, and of the libraries that reach them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from soundmill.models.device.installation import (
    cann_version,
    cuda_driver_version,
    device_files,
    environment_troubles,
    npu_driver_version,
)

from .finding import Finding

LIMIT_S = 150.0
GIB = 1024**3

_REMEDY_TORCH = "pip install 'soundmill[models]'"


def card_findings() -> Iterator[Finding]:
    """Look at torch, the vendors' software and every card; each card has to give a known answer."""
    for trouble in environment_troubles(os.environ):
        yield Finding(what="environment", verdict="broken", detail=trouble)
    if _version("torch") is None:
        yield Finding(
            what="torch", verdict="missing", detail=f"no model with weights runs here; {_REMEDY_TORCH}"
        )
        return
    told, words = _ask()
    if told is None:
        yield Finding(what="torch", verdict="broken", detail=words)
        return
    yield _torch(told)
    yield from _npu(told)
    yield from _cuda(told)
    yield from map(_card, told["cards"])


def _ask() -> tuple[dict[str, Any] | None, str]:
    """Have another process import torch and open the cards; what it found, or what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "report.json")
        command = [sys.executable, "-P", "-m", "soundmill.models.device.report", str(file)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return (
                None,
                f"a card or its library gave no answer in {LIMIT_S:.0f} s; reset the card or its driver",
            )
        if file.exists():
            return json.loads(file.read_text()), ""
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    words = f"opening the cards ended with status {done.returncode}: {''.join(last) or 'not a word'}"
    return None, f"{words}; install torch and the vendor's library anew, in versions that belong together"


def _torch(told: dict[str, Any]) -> Finding:
    if told["torch"] is None:
        return Finding(what="torch", verdict="broken", detail=next(iter(told["troubles"].values())))
    transformers = _version("transformers")
    if transformers is None:
        detail = f"torch {told['torch']}, but no transformers; {_REMEDY_TORCH}"
        return Finding(what="torch", verdict="missing", detail=detail)
    detail = f"{told['torch']}, transformers {transformers}, {told['threads']} thread(s)"
    return Finding(what="torch", verdict="ok", detail=detail)


def _npu(told: dict[str, Any]) -> Iterator[Finding]:
    package, files = _version("torch_npu"), device_files("npu")
    if package is None and not files:
        return
    parts = {"torch_npu": package, "CANN": cann_version(os.environ), "driver": npu_driver_version()}
    found = ", ".join(f"{name} {version or '-'}" for name, version in parts.items())
    if "npu" in told["troubles"]:
        yield Finding(what="npu", verdict="broken", detail=f"{told['troubles']['npu']} ({found})")
    elif package is None:
        detail = f"{files} NPU(s) but no torch_npu ({found}); pip install 'soundmill[npu]'"
        yield Finding(what="npu", verdict="missing", detail=detail)
    elif not _belong_together(package, told["torch"]):
        detail = (
            f"torch_npu {package} is for another torch than {told['torch']}; install the pair of one release"
        )
        yield Finding(what="npu", verdict="broken", detail=detail)
    elif not any(card["card"].startswith("npu") for card in told["cards"]):
        detail = (
            f"{found}, but no NPU can be used; check the driver, and that this process may open /dev/davinci*"
        )
        yield Finding(what="npu", verdict="broken" if files else "missing", detail=detail)
    else:
        yield Finding(what="npu", verdict="ok", detail=found)


def _belong_together(torch_npu: str, torch: str | None) -> bool:
    """Whether both are of one release: torch_npu pins the first two numbers of its torch."""
    return torch is None or torch_npu.split(".")[:2] == torch.split(".")[:2]


def _cuda(told: dict[str, Any]) -> Iterator[Finding]:
    driver, files = cuda_driver_version(), device_files("cuda")
    seen = any(card["card"].startswith("cuda") for card in told["cards"])
    if seen:
        yield Finding(what="cuda", verdict="ok", detail=f"driver {driver or '-'}")
    elif files:
        detail = (
            f"{files} CUDA card(s), which torch {told['torch']} does not use; install a torch built for CUDA"
        )
        yield Finding(what="cuda", verdict="missing", detail=detail)


def _card(card: dict[str, Any]) -> Finding:
    what = f"card {card['card']}"
    if not card["ok"]:
        remedy = "stop what uses it, reset it, or leave it out of the worker's cards"
        return Finding(what=what, verdict="broken", detail=f"{card['detail']}; {remedy}")
    memory = f"{card['usable'] / GIB:.1f} of {card['total'] / GIB:.1f} GiB free"
    graphs = "graphs" if card["graphs"] else "no graphs"
    abilities = f"{', '.join(card['dtypes'])}, {graphs}, FFT {card['fft']}"
    return Finding(what=what, verdict="ok", detail=f"{card['name']}, {memory}, {abilities}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
