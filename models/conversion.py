"""Turn a published pickle of tensors into safetensors, once: `python -m soundmill.models.conversion FOLDER`.

The command `soundmill models convert` runs this in a process of its own, so that whatever a pickle might do
happens where no card, broker or job table is. torch reads it with `weights_only=True`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ModelUnavailable

PICKLES = ("pytorch_model.bin", "model.bin")
TARGET = "model.safetensors"
SAFE_TORCH = (2, 10)  # before it `weights_only` could be bypassed: CVE-2025-32434, CVE-2026-24747


def main(argv: list[str] | None = None) -> int:
    """Convert one folder; print what was done as JSON, or a sentence on standard error."""
    parser = argparse.ArgumentParser(prog="soundmill.models.conversion", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    try:
        sys.stdout.write(json.dumps(convert(folder)) + "\n")
    except ModelUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def convert(folder: Path) -> dict[str, Any]:
    """Write `model.safetensors` beside the pickle of a folder, in the dtypes of the pickle.

    Names that share one storage (tied tensors) are written once, under the first of them.

    Returns:
        `file`, `tensors`, `tied` (the names left out) and `bytes`.

    Raises:
        ModelUnavailable: There is no pickle, torch is too old or missing, or it holds no plain tensors.
    """
    target = folder / TARGET
    if target.exists():
        raise ModelUnavailable(f"{target} exists already; nothing was converted")
    source = next((folder / name for name in PICKLES if (folder / name).is_file()), None)
    if source is None:
        raise ModelUnavailable(f"{folder} has none of {', '.join(PICKLES)}; there is nothing to convert")
    tensors, tied = _without_ties(_read(source))
    part = target.with_suffix(".part")
    try:
        from safetensors.torch import save_file

        save_file(tensors, part, metadata={"format": "pt"})
        part.replace(target)
    except OSError as error:
        raise ModelUnavailable(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return {
        "file": str(target),
        "tensors": len(tensors),
        "tied": sorted(tied),
        "bytes": target.stat().st_size,
    }


def _read(source: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise ModelUnavailable("torch is missing; install soundmill[models]") from error
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < SAFE_TORCH:
        raise ModelUnavailable(
            f"torch {torch.__version__} does not read a pickle safely; convert with torch 2.10 or later"
        )
    try:
        # Not `mmap`: older files are no zip archives.
        state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelUnavailable(
            f"{source} holds more than tensors, or is damaged ({type(error).__name__}); download it again"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelUnavailable(f"{source} is not a dictionary of tensors")
    return state


def _without_ties(state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    kept: dict[str, Any] = {}
    tied: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in state.items():
        # Empty tensors all have the address 0 and nothing in common.
        same = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and same in seen:
            tied.append(name)
            continue
        seen.add(same)
        kept[name] = tensor.contiguous().clone()
    return kept, tied


if __name__ == "__main__":
    sys.exit(main())
